package manifests

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	netv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilyaml "k8s.io/apimachinery/pkg/util/yaml"
	"sigs.k8s.io/yaml"

	"github.com/ringfence/ringfence/internal/netpol"
)

// MaxFileSize bounds one file.
const MaxFileSize = 256 << 20

// maxProblems bounds how many an error lists.
const maxProblems = 20

// Read reads the manifests at path: a file, or every .yaml, .yml and .json file in
// a directory and those below it. progress, if set, hears of every file read. An
// error names the file, the document in it, the object and the field.
func Read(ctx context.Context, path string, progress func(done, total int)) (*World, error) {
	files, err := list(path)
	if err != nil {
		return nil, fmt.Errorf("list manifests: %w", err)
	}
	r := &reader{seen: map[string]place{}, other: map[string]int{}}
	for i, file := range files {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := r.file(file); err != nil {
			return nil, err
		}
		if progress != nil {
			progress(i+1, len(files))
		}
	}
	return r.world(path)
}

// Parse reads manifests from memory; name is what errors call them.
func Parse(name string, src []byte) (*World, error) {
	r := &reader{seen: map[string]place{}, other: map[string]int{}}
	if err := r.documents(name, bytes.NewReader(src)); err != nil {
		return nil, err
	}
	return r.world(name)
}

func list(path string) ([]string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, err
	}
	if !info.IsDir() {
		return []string{path}, nil
	}
	var out []string
	err = filepath.WalkDir(path, func(at string, d fs.DirEntry, err error) error {
		if err == nil && !d.IsDir() && slices.Contains([]string{".yaml", ".yml", ".json"}, strings.ToLower(filepath.Ext(at))) {
			out = append(out, at)
		}
		return err
	})
	if err == nil && len(out) == 0 {
		err = fmt.Errorf("%s holds no .yaml, .yml or .json file", path)
	}
	return out, err
}

// place is where an object stands.
type place struct {
	file     string
	document int // from 1
}

func (p place) String() string { return fmt.Sprintf("%s: document %d", p.file, p.document) }

// reader collects objects.
type reader struct {
	namespaces []corev1.Namespace
	services   []corev1.Service
	policies   []netpol.Policy
	pods       []corev1.Pod
	owners     []owner
	seen       map[string]place // kind, namespace and name
	other      map[string]int   // objects of kinds that are not read, by kind
	problems   []error
}

// owner is an object that makes pods.
type owner struct {
	metav1.ObjectMeta
	kind     string
	template corev1.PodTemplateSpec
}

func (r *reader) file(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("open manifest: %w", err)
	}
	defer f.Close() //nolint:errcheck // only read from
	if info, err := f.Stat(); err == nil && info.Size() > MaxFileSize {
		return fmt.Errorf("%s: larger than %d MiB: split it", path, MaxFileSize>>20)
	}
	return r.documents(path, f)
}

// documents reads one file. What is wrong with a document is remembered, so that
// all of it is reported at once.
func (r *reader) documents(file string, src io.Reader) error {
	docs := utilyaml.NewYAMLReader(bufio.NewReader(src))
	for at := (place{file, 1}); ; at.document++ {
		doc, err := docs.Read()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", at, err)
		}
		if err := r.document(at, doc); err != nil {
			r.problems = append(r.problems, fmt.Errorf("%s: %w", at, err))
		}
	}
}

// header is what tells objects apart.
type header struct {
	metav1.TypeMeta `json:",inline"`
	Metadata        struct {
		Name      string `json:"name"`
		Namespace string `json:"namespace"`
	} `json:"metadata"`
	Items []json.RawMessage `json:"items"`
}

func (r *reader) document(at place, doc []byte) error {
	var h header
	if err := yaml.Unmarshal(doc, &h); err != nil {
		return errors.New(strings.Join(strings.Fields(err.Error()), " "))
	}
	if h.Kind == "" && h.APIVersion == "" {
		var empty any
		if err := yaml.Unmarshal(doc, &empty); err == nil && empty == nil {
			return nil // comments
		}
	}
	return r.object(at, h, doc)
}

func (r *reader) object(at place, h header, doc []byte) error {
	if h.Kind == "" || h.APIVersion == "" {
		return errors.New("it has no kind or no apiVersion: want Kubernetes objects")
	}
	if kind, isList := strings.CutSuffix(h.Kind, "List"); isList && h.Metadata.Name == "" {
		return r.items(at, h, kind)
	}
	name := h.Kind + " " + h.Metadata.Name
	if h.Metadata.Namespace != "" {
		name = h.Kind + " " + h.Metadata.Namespace + "/" + h.Metadata.Name
	}
	read, ok := r.kind(h)
	if !ok {
		r.other[h.Kind]++
		return nil
	}
	if h.Metadata.Name == "" {
		return fmt.Errorf("%s: metadata.name is missing", h.Kind)
	}
	key := h.Kind + " " + namespaceOf(h.Metadata.Namespace) + "/" + h.Metadata.Name
	if first, twice := r.seen[key]; twice {
		return fmt.Errorf("%s: it is already in %s: remove one", name, first)
	}
	r.seen[key] = at
	if err := read(doc); err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	return nil
}

// items reads a List, or a list of one kind, whose items need not say it.
func (r *reader) items(at place, h header, kind string) error {
	var problems []string
	for i, raw := range h.Items {
		var item header
		err := yaml.Unmarshal(raw, &item)
		if err == nil && kind != "" && item.Kind == "" {
			item.Kind, item.APIVersion = kind, h.APIVersion
		}
		if err == nil {
			err = r.object(at, item, raw)
		}
		if err != nil {
			problems = append(problems, fmt.Sprintf("items[%d]: %v", i, err))
		}
	}
	if len(problems) > 0 {
		return errors.New(strings.Join(problems, "; "))
	}
	return nil
}

// kind returns what reads an object; false for kinds that say nothing here.
func (r *reader) kind(h header) (func(doc []byte) error, bool) {
	switch h.APIVersion + " " + h.Kind {
	case "v1 Namespace":
		return readInto(&r.namespaces), true
	case "v1 Service":
		return readInto(&r.services), true
	case "v1 Pod":
		return readInto(&r.pods), true
	case "networking.k8s.io/v1 NetworkPolicy":
		return r.policy, true
	case "apps/v1 Deployment":
		return readOwner(r, h.Kind, func(o *appsv1.Deployment) (metav1.ObjectMeta, corev1.PodTemplateSpec) {
			return o.ObjectMeta, o.Spec.Template
		}), true
	case "apps/v1 StatefulSet":
		return readOwner(r, h.Kind, func(o *appsv1.StatefulSet) (metav1.ObjectMeta, corev1.PodTemplateSpec) {
			return o.ObjectMeta, o.Spec.Template
		}), true
	case "apps/v1 DaemonSet":
		return readOwner(r, h.Kind, func(o *appsv1.DaemonSet) (metav1.ObjectMeta, corev1.PodTemplateSpec) {
			return o.ObjectMeta, o.Spec.Template
		}), true
	case "apps/v1 ReplicaSet":
		return readOwner(r, h.Kind, func(o *appsv1.ReplicaSet) (metav1.ObjectMeta, corev1.PodTemplateSpec) {
			return o.ObjectMeta, o.Spec.Template
		}), true
	case "batch/v1 Job":
		return readOwner(r, h.Kind, func(o *batchv1.Job) (metav1.ObjectMeta, corev1.PodTemplateSpec) {
			return o.ObjectMeta, o.Spec.Template
		}), true
	case "batch/v1 CronJob":
		return readOwner(r, h.Kind, func(o *batchv1.CronJob) (metav1.ObjectMeta, corev1.PodTemplateSpec) {
			return o.ObjectMeta, o.Spec.JobTemplate.Spec.Template
		}), true
	case "v1 ReplicationController":
		return readOwner(r, h.Kind, func(o *corev1.ReplicationController) (metav1.ObjectMeta, corev1.PodTemplateSpec) {
			if o.Spec.Template == nil {
				return o.ObjectMeta, corev1.PodTemplateSpec{}
			}
			return o.ObjectMeta, *o.Spec.Template
		}), true
	}
	return nil, false
}

func readInto[T any](list *[]T) func([]byte) error {
	return func(doc []byte) error {
		var o T
		if err := netpol.Strict(doc, &o); err != nil {
			return err
		}
		*list = append(*list, o)
		return nil
	}
}

func readOwner[T any](r *reader, kind string, parts func(*T) (metav1.ObjectMeta, corev1.PodTemplateSpec)) func([]byte) error {
	return func(doc []byte) error {
		var o T
		if err := netpol.Strict(doc, &o); err != nil {
			return err
		}
		meta, template := parts(&o)
		meta.Namespace = namespaceOf(meta.Namespace)
		r.owners = append(r.owners, owner{meta, kind, template})
		return nil
	}
}

func (r *reader) policy(doc []byte) error {
	var np netv1.NetworkPolicy
	if err := netpol.Strict(doc, &np); err != nil {
		return err
	}
	p, err := netpol.Import(&np)
	if invalid, ok := errors.AsType[*netpol.InvalidError](err); ok {
		return errors.New(invalid.Fields())
	}
	if err != nil {
		return err
	}
	r.policies = append(r.policies, p)
	return nil
}

// namespaceOf is where an object goes that does not say.
func namespaceOf(ns string) string {
	if ns == "" {
		return metav1.NamespaceDefault
	}
	return ns
}
