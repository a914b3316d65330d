package main

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/export"
	"github.com/ringfence/ringfence/internal/policy"
)

type policyExport struct {
	server              remote
	out                 output
	all, strict         bool
	namespace, selector string
}

func newPolicyExportCommand(client *clientFlags) *cobra.Command {
	o := policyExport{server: remote{flags: client}, out: output{only: append([]string{"yaml", "json"}, dialectsBesideYAML()...)}}
	cmd := &cobra.Command{
		Use:   "export NAMESPACE/NAME[@REVISION]... | -A | -n NAMESPACE | -l LABELS",
		Short: "Print policies in the words of Kubernetes, Cilium, Calico or nftables",
		Long: `Print revisions as other enforcers have them: -o yaml as NetworkPolicies, the
other dialects behind comments that say what they cannot say, which stderr has
too; json our own, which "ringfence policy apply" and "ringfence replay" read.

Without @REVISION (a number, live or staged) it is the live one. -A, -n and -l pick
workloads that have one.`,
		Example: "  ringfence policy export -n shop -o cilium > shop.yaml\n" +
			"  ringfence policy export shop/cart@staged -o nftables",
		RunE: o.run,
	}
	o.out.register(cmd)
	o.out.format = "yaml"
	cmd.Flags().Lookup("output").DefValue = "yaml"
	f := cmd.Flags()
	f.BoolVarP(&o.all, "all-namespaces", "A", false, "every workload that has a live revision")
	f.StringVarP(&o.namespace, "namespace", "n", "", "only workloads of this namespace")
	f.StringVarP(&o.selector, "selector", "l", "", "only workloads with these labels, such as app=frontend")
	f.BoolVar(&o.strict, "strict", false, "fail when an export lacks a workload or allows what guardrails deny")
	return cmd
}

func (o *policyExport) run(cmd *cobra.Command, args []string) error {
	if err := o.out.validate(); err != nil {
		return err
	}
	many := o.all || o.namespace != "" || o.selector != ""
	if many == (len(args) > 0) {
		return fmt.Errorf("name workloads, or several by -A, -n or -l; see %s --help", cmd.CommandPath())
	}
	policies, err := o.policies(cmd.Context(), args, many)
	if err != nil {
		return err
	}
	dialect, isDialect := dialects[o.out.format]
	if !isDialect {
		return o.out.print(cmd.OutOrStdout(), map[string]any{"policies": policies}, nil, nil, nil)
	}
	inv, err := o.server.inventory(cmd.Context())
	if err != nil {
		return err
	}
	exported, err := export.Export(dialect, exportInput(policies, inv))
	if err != nil {
		return err
	}
	if err := exported.Write(cmd.OutOrStdout()); err != nil {
		return err
	}
	exportNotices(cmd.ErrOrStderr(), &exported)
	if !o.strict {
		return nil
	}
	return exportVerdict(&exported)
}

// policies returns those that are asked for, ordered by workload.
func (o *policyExport) policies(ctx context.Context, args []string, many bool) ([]policy.Policy, error) {
	if many {
		var err error
		if args, err = o.live(ctx); err != nil {
			return nil, err
		}
	}
	out := []policy.Policy{}
	for _, name := range args {
		name, which, ok := strings.Cut(name, "@")
		if !ok {
			which = "live"
		}
		if !revisionName.MatchString(name + "@" + which) {
			return nil, fmt.Errorf("%s@%s: want NAMESPACE/NAME or NAMESPACE/KIND/NAME, and behind @ a revision's number, live or staged", name, which)
		}
		w, err := o.server.workload(ctx, name)
		if err != nil {
			return nil, err
		}
		p, err := o.server.revision(ctx, w, which)
		if err != nil {
			return nil, err
		}
		out = append(out, p)
	}
	slices.SortFunc(out, func(a, b policy.Policy) int { return a.Workload.Compare(b.Workload) })
	return out, nil
}

// live names the workloads that -n and -l pick and that have a live revision.
func (o *policyExport) live(ctx context.Context) ([]string, error) {
	list, err := listWorkloads(ctx, &o.server, o.namespace, o.selector)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, w := range list {
		if w.Requested.Live != nil {
			out = append(out, workloadText(w.Workload))
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("none of %d workloads has a live revision: name a workload and a revision as NAMESPACE/NAME@REVISION", len(list))
	}
	return out, nil
}
