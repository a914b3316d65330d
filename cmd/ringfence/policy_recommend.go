package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/policy"
)

// learned is what `ringfence policy recommend -o json` prints: a file of policies
// too.
type learned struct {
	Policies        []policy.Policy `json:"policies"`
	Recommendations []sampled       `json:"recommendations"`
}

// sampled is a recommendation with some records behind each piece of evidence,
// by the evidence's filter.
type sampled struct {
	api.Recommendation
	Samples map[string][]api.Flow `json:"samples"`
}

func newPolicyRecommendCommand(client *clientFlags) *cobra.Command {
	var (
		server         = remote{flags: client}
		out            output
		window         flowFiles
		includeFlagged bool
		samples        int
	)
	cmd := &cobra.Command{
		Use:   "recommend NAMESPACE/KIND/NAME",
		Short: "Show what was learned of one workload: rules, evidence, flags, what is missing",
		Long: `Show the rules that were learned of one workload from what the server stored
since --since (30 days ago unless given), and whether it is ready to be enforced.

-o json and -o yaml print the policy, the evidence of each rule with some of the
flow records behind it, and what was not learned; "ringfence policy apply" reads
them. Rules that are flagged are left out of the policy unless --include-flagged
is given, and each has to be accepted when it is applied.`,
		Args: oneWorkload,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.validate(); err != nil {
				return err
			}
			if samples < 0 || samples > maxFlowsPage {
				return fmt.Errorf("--samples %d: want 0 to %d", samples, maxFlowsPage)
			}
			since, until, err := window.window(time.Now())
			if err != nil {
				return err
			}
			rec, err := recommendation(cmd.Context(), &server, args[0], since, until)
			if err != nil {
				return err
			}
			doc, err := learnedOf(cmd.Context(), &server, rec, includeFlagged, samples, out.format)
			if err != nil {
				return err
			}
			return printLearned(cmd.OutOrStdout(), cmd.ErrOrStderr(), doc, out)
		},
	}
	out.register(cmd)
	window.registerWindow(cmd)
	cmd.Flags().BoolVar(&includeFlagged, "include-flagged", false, "put the rules that wait for a person into the policy too")
	cmd.Flags().IntVar(&samples, "samples", 3, "with -o json and yaml: so many flow records of each piece of evidence")
	return cmd
}

func recommendation(ctx context.Context, server *remote, name string, since, until time.Time) (*api.Recommendation, error) {
	w, err := server.workload(ctx, name)
	if err != nil {
		return nil, err
	}
	c, err := server.connect()
	if err != nil {
		return nil, err
	}
	var ask api.GetRecommendationParams
	if !since.IsZero() {
		ask.Since = &since
	}
	if !until.IsZero() {
		ask.Until = &until
	}
	res, err := c.GetRecommendationWithResponse(ctx, w.Namespace, w.Kind, w.Name, &ask)
	if err := expect(res, err); err != nil {
		return nil, err
	}
	return res.JSON200, nil
}

func learnedOf(ctx context.Context, server *remote, rec *api.Recommendation, includeFlagged bool, samples int, format string) (*learned, error) {
	one := sampled{Recommendation: *rec, Samples: map[string][]api.Flow{}}
	out := &learned{Policies: []policy.Policy{}}
	if p := acceptedPolicy(rec, includeFlagged); p.IsolateIngress || p.IsolateEgress {
		read, err := readWire(p)
		if err != nil {
			return nil, err
		}
		out.Policies = append(out.Policies, read)
	}
	if samples > 0 && (format == "json" || format == "yaml") {
		for _, r := range rec.Rules {
			for _, e := range r.Evidence {
				flows, err := server.records(ctx, e.Filter, samples)
				if err != nil {
					return nil, err
				}
				one.Samples[e.Filter] = flows
			}
		}
	}
	out.Recommendations = []sampled{one}
	return out, nil
}

func printLearned(w, stderr io.Writer, doc *learned, out output) error {
	rec := &doc.Recommendations[0]
	var names []string
	var rows [][]string
	for _, r := range rec.Rules {
		names = append(names, *r.Rule.ID)
		connections := int64(0)
		for _, e := range r.Evidence {
			connections += e.Connections
		}
		rows = append(rows, []string{*r.Rule.ID, string(r.Direction), string(r.Proposed), orDash(flagCodes(&r)),
			strconv.FormatInt(connections, 10), r.Sentence})
	}
	if rec.NoPolicy != nil {
		fmt.Fprintln(stderr, "no policy: "+*rec.NoPolicy)
	}
	for _, n := range valuesOf(rec.Notes) {
		fmt.Fprintln(stderr, "note: "+n)
	}
	if rec.Coverage.Ready {
		fmt.Fprintln(stderr, "ready to be enforced")
	} else {
		fmt.Fprintln(stderr, "not ready: "+strings.Join(rec.Coverage.Missing, "; "))
	}
	if out.format == "table" && len(rows) == 0 {
		return nil
	}
	return out.print(w, doc, names, []string{"RULE", "DIRECTION", "PROPOSED", "FLAGS", "CONNECTIONS", "ALLOWS"}, rows)
}

func flagCodes(r *api.RecommendedRule) string {
	var out []string
	for _, f := range r.Flags {
		out = append(out, f.Code)
	}
	return strings.Join(out, ",")
}

func valuesOf[T any](p *[]T) []T {
	if p == nil {
		return nil
	}
	return *p
}

func newPolicyApplyCommand(client *clientFlags) *cobra.Command {
	var (
		server   = remote{flags: client}
		accepted []string
		comment  string
		dryRun   bool
	)
	cmd := &cobra.Command{
		Use:   "apply FILE|NAMESPACE/NAME@REVISION",
		Short: "Save policies as their workloads' next revisions; nothing is audited or enforced by it",
		Long: `Save the policies in FILE (NetworkPolicies, ours, or what "ringfence policy
recommend -o json" prints), or a former revision, as the next revisions of the
workloads that they govern. "ringfence policy stage" then audits one.

A rule that is flagged by what was learned is refused, unless --accept-flagged
names it with all of its flags: look at the rule's evidence before. Who accepted
what goes into the activity log. Rules that the newest revision has, and rules
that nobody recommended, need no word.`,
		Example: "  ringfence policy recommend shop/Host/cart -o json --include-flagged > cart.json\n" +
			"  ringfence policy apply cart.json --accept-flagged 5b1c0a94c2f7d3e1=admin-port,seen-once",
		Args: exactArgs(1, "one file of policies"),
		RunE: func(cmd *cobra.Command, args []string) error {
			flagged, err := acceptedFlags(accepted)
			if err != nil {
				return err
			}
			f, err := server.policies(cmd.Context(), args[0])
			if err != nil {
				return err
			}
			inv, err := server.inventory(cmd.Context())
			if err != nil {
				return err
			}
			policies := f.of(inv, cmd.ErrOrStderr())
			if len(policies) == 0 {
				return fmt.Errorf("%s governs no workload of the server's inventory", args[0])
			}
			var errs []error
			for _, p := range policies {
				n := api.NewRevision{Policy: api.PolicyOf(p), Origin: api.NewRevisionOriginEdit, AcceptedFlagged: &flagged}
				if comment != "" {
					n.Comment = &comment
				}
				errs = append(errs, applyPolicy(cmd.Context(), cmd.OutOrStdout(), &server, p, n, dryRun))
			}
			return errors.Join(errs...)
		},
	}
	cmd.Flags().StringArrayVar(&accepted, "accept-flagged", nil, "accept one flagged rule, named with its flags as RULE=FLAG,FLAG; may be given again")
	cmd.Flags().StringVar(&comment, "comment", "", "why, for the list of revisions")
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be done and do nothing")
	return cmd
}

func acceptedFlags(list []string) ([]api.AcceptedFlagged, error) {
	out := []api.AcceptedFlagged{}
	for _, text := range list {
		rule, flags, ok := strings.Cut(text, "=")
		if !ok || rule == "" || flags == "" {
			return nil, fmt.Errorf("--accept-flagged %q: name one rule with its flags, such as 5b1c0a94c2f7d3e1=admin-port,seen-once", text)
		}
		out = append(out, api.AcceptedFlagged{Rule: rule, Flags: strings.Split(flags, ",")})
	}
	return out, nil
}

func applyPolicy(ctx context.Context, w io.Writer, server *remote, p policy.Policy, n api.NewRevision, dryRun bool) error {
	c, err := server.connect()
	if err != nil {
		return err
	}
	who := p.Workload
	revs, err := c.ListRevisionsWithResponse(ctx, who.Namespace, who.Kind, who.Name)
	if err := expect(revs, err); err != nil {
		return err
	}
	if list := *revs.JSON200; len(list) > 0 {
		n.Parent = list[0].Number
		if list[0].Digest == policy.Digest(p) {
			fmt.Fprintf(w, "%s: unchanged, revision %d says the same\n", who, n.Parent)
			return nil
		}
	}
	if dryRun {
		fmt.Fprintf(w, "%s: would save revision %d (dry run)\n", who, n.Parent+1)
		return nil
	}
	res, err := c.CreateRevisionWithResponse(ctx, who.Namespace, who.Kind, who.Name, n)
	if err := expect(res, err); err != nil {
		if refused, ok := errors.AsType[*apiError](err); ok && refused.code == string(api.ErrorCodeNotReady) {
			return fmt.Errorf("%s: %w; look at each and give --accept-flagged RULE=FLAG,FLAG", who, err)
		}
		return fmt.Errorf("%s: %w", who, err)
	}
	fmt.Fprintf(w, "%s: saved revision %d; audit it with `ringfence policy stage %s --revision %d`\n", who, res.JSON201.Number, who, res.JSON201.Number)
	return nil
}
