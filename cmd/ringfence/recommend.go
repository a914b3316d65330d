package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"github.com/ringfence/ringfence/analyzer"
	"github.com/ringfence/ringfence/internal/export"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/flowfile"
	"github.com/ringfence/ringfence/internal/inventory"
	"github.com/ringfence/ringfence/internal/policy"
)

type recommendFlags struct {
	files               flowFiles
	out                 output
	namespace, workload string
	includeFlagged      bool
}

func newRecommendCommand() *cobra.Command {
	o := recommendFlags{out: output{extra: dialectsBesideYAML()}}
	cmd := &cobra.Command{
		Use:   "recommend --from hubble|ringfence FILE...|-",
		Short: "Learn policies from files of flows, without a server or agents",
		Long: `Learn least-privilege policies from flows that were written down: the JSON lines
of "hubble observe -o jsonpb", or what "ringfence flows -o json" prints. Files
may be compressed by gzip or zstd; - is stdin. It needs no rights, no server and
no database.

-o yaml prints NetworkPolicies; cilium, calico, calico-staged,
clusternetworkpolicy and nftables the same in those words, behind comments that
say what they cannot say, which stderr has too; json our policies with their
evidence, flags and what is missing; table and name one line a workload. What
was read, and every rule that waits for a person, is listed on stderr. Such rules
are left out of the policies unless --include-flagged is given.`,
		Example: `  hubble observe --all -o jsonpb | ringfence recommend --from hubble - > policies.yaml
  ringfence recommend --from ringfence flows.json.gz -n shop -o table`,
		RunE: o.run,
	}
	o.out.register(cmd)
	o.out.format = "yaml"
	cmd.Flags().Lookup("output").DefValue = "yaml"
	o.files.register(cmd)
	f := cmd.Flags()
	f.Lookup("strict").Usage += ", or an export lacks a workload or allows what guardrails deny"
	f.StringVarP(&o.namespace, "namespace", "n", "", "only workloads of this namespace")
	f.StringVar(&o.workload, "workload", "", "only this one: NAMESPACE/KIND/NAME or NAMESPACE/NAME")
	f.BoolVar(&o.includeFlagged, "include-flagged", false, "put the rules that wait for a person into the policies too")
	return cmd
}

func dialectsBesideYAML() []string {
	return slices.DeleteFunc(sortedKeys(dialects), func(s string) bool { return s == "yaml" })
}

// recommended is what -o json prints.
type recommended struct {
	Summary         flowfile.Summary           `json:"summary"`
	Policies        []policy.Policy            `json:"policies"`
	Recommendations []*analyzer.Recommendation `json:"recommendations"`
}

// learningGC is by how much the heap may grow before it is collected, in percent,
// while policies are learned and written.
const learningGC = 50

func (o *recommendFlags) run(cmd *cobra.Command, args []string) error {
	if err := o.out.validate(); err != nil {
		return err
	}
	set, err := o.files.read(cmd, args)
	if err != nil {
		return err
	}
	// What is kept is large by now: a heap of twice as much would be the most that
	// the whole command takes.
	defer debug.SetGCPercent(debug.SetGCPercent(learningGC))
	a, window, err := analyzerOf(set)
	if err != nil {
		return err
	}
	all, err := a.RecommendAll(cmd.Context(), window)
	if err != nil {
		return err
	}
	list := slices.DeleteFunc(all, func(r *analyzer.Recommendation) bool { return !o.asked(r.Workload) })
	if len(list) == 0 {
		return errors.New("no workload of the files is asked for by -n and --workload; -o name without them lists those there are")
	}
	policies, err := o.policies(list)
	if err != nil {
		return err
	}
	return o.print(cmd.OutOrStdout(), cmd.ErrOrStderr(), set, list, policies)
}

func (o *recommendFlags) asked(w flow.Workload) bool {
	return (o.namespace == "" || o.namespace == w.Namespace) &&
		(o.workload == "" || o.workload == w.String() || o.workload == w.Namespace+"/"+w.Name)
}

// policies returns those of list that have one, in its order.
func (o *recommendFlags) policies(list []*analyzer.Recommendation) ([]policy.Policy, error) {
	out := []policy.Policy{}
	for _, r := range list {
		switch {
		case o.includeFlagged && len(r.Rules) > 0:
			p, err := r.PolicyOf(r.All())
			if err != nil {
				return nil, err
			}
			out = append(out, p)
		case r.Policy != nil:
			out = append(out, *r.Policy)
		}
	}
	return out, nil
}

// print writes the policies, and what a reader has to know of them to stderr. An
// error may also be the verdict of --strict.
func (o *recommendFlags) print(stdout, stderr io.Writer, set *flowfile.Set, list []*analyzer.Recommendation, policies []policy.Policy) (err error) {
	inv := set.Inventory()
	subjects := make(map[flow.Workload]*inventory.Workload, len(inv.Workloads))
	for i := range inv.Workloads {
		subjects[inv.Workloads[i].Ref()] = &inv.Workloads[i]
	}
	var exported export.Result
	d, isDialect := dialects[o.out.format]
	if isDialect {
		if exported, err = export.Export(d, exportInput(policies, &inv)); err == nil {
			err = exported.Write(stdout)
		}
	} else {
		err = o.printList(stdout, set, list, policies)
	}
	if err != nil {
		return err
	}
	printRead(stderr, &set.Summary)
	if isDialect {
		exportNotices(stderr, &exported)
	}
	unlabelled := o.summary(stderr, list, subjects, len(policies))
	if err := o.files.verdict(&set.Summary, unlabelled); err != nil || !o.files.strict {
		return err
	}
	return exportVerdict(&exported)
}

// write writes r as JSON, its lists element by element: the text of all would take
// more memory than what was learned.
func (r *recommended) write(out io.Writer) error {
	w := bufio.NewWriter(out)
	summary, err := json.MarshalIndent(r.Summary, "  ", "  ")
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "{\n  \"summary\": %s,\n  \"policies\": ", summary)
	if err := writeElements(w, r.Policies); err != nil {
		return err
	}
	fmt.Fprint(w, ",\n  \"recommendations\": ")
	if err := writeElements(w, r.Recommendations); err != nil {
		return err
	}
	fmt.Fprint(w, "\n}\n")
	return w.Flush() // which returns any error of writing
}

// writeElements writes a list that is a member of an object, some of its elements
// at once.
func writeElements[T any](w *bufio.Writer, list []T) error {
	if len(list) == 0 {
		_, err := w.WriteString("[]")
		return err
	}
	before := "[\n    "
	for some := range slices.Chunk(list, 64) {
		texts := make([][]byte, len(some))
		var g errgroup.Group
		g.SetLimit(runtime.GOMAXPROCS(0))
		for i := range some {
			g.Go(func() (err error) {
				texts[i], err = json.MarshalIndent(some[i], "    ", "  ")
				return err
			})
		}
		if err := g.Wait(); err != nil {
			return err
		}
		for _, text := range texts {
			fmt.Fprintf(w, "%s%s", before, text)
			before = ",\n    "
		}
	}
	_, err := w.WriteString("\n  ]")
	return err
}

func (o *recommendFlags) printList(w io.Writer, set *flowfile.Set, list []*analyzer.Recommendation, policies []policy.Policy) error {
	if o.out.format == "json" {
		return (&recommended{set.Summary, policies, list}).write(w)
	}
	var names []string
	for i := range policies {
		names = append(names, policies[i].Workload.String())
	}
	var rows [][]string
	for _, r := range list {
		flagged := len(r.Flagged())
		ready := "yes"
		if !r.Coverage.Ready {
			ready = "no"
		}
		rows = append(rows, []string{
			r.Workload.String(), isolatedText(r), strconv.Itoa(len(r.Rules) - flagged), strconv.Itoa(flagged), strconv.Itoa(len(r.Excluded)), ready, r.NoPolicy,
		})
	}
	return o.out.print(w, nil, names,
		[]string{"WORKLOAD", "ISOLATES", "RULES", "FLAGGED", "EXCLUDED", "READY", "WHY NO POLICY"}, rows)
}

func isolatedText(r *analyzer.Recommendation) string {
	var out []string
	if r.Ingress.Isolated {
		out = append(out, flow.Ingress.String())
	}
	if r.Egress.Isolated {
		out = append(out, flow.Egress.String())
	}
	if out == nil {
		return "-"
	}
	return strings.Join(out, ",")
}

// summary lists what a person has to decide, and returns how many workloads have
// no usable label.
func (o *recommendFlags) summary(w io.Writer, list []*analyzer.Recommendation, subjects map[flow.Workload]*inventory.Workload, policies int) (unlabelled int) {
	rules, edges, flagged, excluded := 0, 0, 0, map[string]int{}
	for _, r := range list {
		for i := range r.Rules {
			if r.Rules[i].Proposed == analyzer.Accept {
				rules++
				edges += len(r.Rules[i].Evidence)
			} else {
				flagged++
			}
		}
		for _, x := range r.Excluded {
			excluded[x.Code]++
		}
	}
	fmt.Fprintf(w, "learned %d edges of %d workloads: %d rules in %d policies, %d rules flagged\n", edges, len(list), rules, policies, flagged)
	for _, code := range sortedKeys(excluded) {
		fmt.Fprintf(w, "  %d not learned: %s\n", excluded[code], code)
	}
	for _, r := range list {
		if _, err := analyzer.Subject(subjects[r.Workload]); err != nil {
			unlabelled++
			fmt.Fprintf(w, "error: %s\n", r.NoPolicy)
		} else if r.NoPolicy != "" {
			fmt.Fprintf(w, "no policy for %s: %s\n", r.Workload, r.NoPolicy)
		}
		for _, f := range r.Flagged() {
			reasons := make([]string, len(f.Flags))
			for i := range f.Flags {
				reasons[i] = f.Flags[i].Code + " (" + f.Flags[i].Reason + ")"
			}
			state := "left out"
			if o.includeFlagged {
				state = "included"
			}
			fmt.Fprintf(w, "flagged, %s: %s %s: %s: %s\n", state, r.Workload, f.Direction, f.Sentence, strings.Join(reasons, "; "))
		}
		for _, n := range r.Notes {
			fmt.Fprintf(w, "note: %s: %s\n", r.Workload, n)
		}
	}
	return unlabelled
}
