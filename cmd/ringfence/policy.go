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
	"k8s.io/apimachinery/pkg/labels"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/flow"
)

func newPolicyCommand() *cobra.Command {
	var client clientFlags
	cmd := &cobra.Command{
		Use:   "policy",
		Short: "List, show, recommend, check, apply, stage, promote, roll back and export policies",
		Args:  cobra.NoArgs,
		RunE:  func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	client.register(cmd)
	cmd.AddCommand(newPolicyListCommand(&client), newPolicyShowCommand(&client), newPolicyRecommendCommand(&client),
		newPolicyCheckCommand(&client), newPolicyApplyCommand(&client), newPolicyExportCommand(&client),
		newSlotCommand(&client, slotStage), newSlotCommand(&client, slotPromote), newSlotCommand(&client, slotRollback))
	return cmd
}

// oneWorkload is for commands whose argument is a workload.
var oneWorkload = exactArgs(1, "one workload as NAMESPACE/KIND/NAME")

func newPolicyListCommand(client *clientFlags) *cobra.Command {
	var (
		out                 output
		namespace, selector string
	)
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List workloads with their stage and revisions",
		Args:  cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := out.validate(); err != nil {
				return err
			}
			list, err := listWorkloads(cmd.Context(), &remote{flags: client}, namespace, selector)
			if err != nil {
				return err
			}
			return printWorkloads(cmd.OutOrStdout(), list, out)
		},
	}
	out.register(cmd)
	cmd.Flags().StringVarP(&namespace, "namespace", "n", "", "only workloads of this namespace")
	cmd.Flags().StringVarP(&selector, "selector", "l", "", "only workloads with these labels, such as app=frontend")
	return cmd
}

// listWorkloads returns the workloads that -n and -l pick.
func listWorkloads(ctx context.Context, server *remote, namespace, selector string) ([]api.WorkloadSummary, error) {
	sel, err := labels.Parse(selector)
	if err != nil {
		return nil, fmt.Errorf("-l %q: %w", selector, err)
	}
	c, err := server.connect()
	if err != nil {
		return nil, err
	}
	res, err := c.ListWorkloadsWithResponse(ctx)
	if err := expect(res, err); err != nil {
		return nil, err
	}
	var list []api.WorkloadSummary
	for _, w := range *res.JSON200 {
		if (namespace == "" || w.Workload.Namespace == namespace) && sel.Matches(labels.Set(w.Labels)) {
			list = append(list, w)
		}
	}
	return list, nil
}

func printWorkloads(w io.Writer, list []api.WorkloadSummary, out output) error {
	names := make([]string, 0, len(list))
	rows := make([][]string, 0, len(list))
	for i := range list {
		s := &list[i]
		names = append(names, workloadText(s.Workload))
		rows = append(rows, []string{
			workloadText(s.Workload), string(s.IngressStage), string(s.EgressStage),
			revisionText(s.Requested.Live), revisionText(s.Effective.Live),
			revisionText(s.Requested.Staged), revisionText(s.Effective.Staged),
			strconv.FormatInt(s.Edges, 10), strconv.FormatInt(s.Connections, 10),
			strconv.FormatInt(s.WouldDeny, 10), strconv.FormatInt(s.Denied, 10),
		})
	}
	return out.print(w, list, names, []string{"WORKLOAD", "INGRESS", "EGRESS", "LIVE", "LIVE-EFFECTIVE",
		"STAGED", "STAGED-EFFECTIVE", "EDGES", "CONNECTIONS", "WOULD-DENY", "DENIED"}, rows)
}

func newPolicyShowCommand(client *clientFlags) *cobra.Command {
	var (
		out      output
		revision int64
	)
	cmd := &cobra.Command{
		Use:   "show NAMESPACE/KIND/NAME",
		Short: "Show one workload's revisions, or one revision's rules",
		Args:  oneWorkload,
		RunE: func(cmd *cobra.Command, args []string) error {
			if err := out.validate(); err != nil {
				return err
			}
			w, err := flow.ParseWorkload(args[0])
			if err != nil {
				return err
			}
			c, err := client.connect()
			if err != nil {
				return err
			}
			if cmd.Flags().Changed("revision") {
				return showRevision(cmd.Context(), cmd.OutOrStdout(), c, w, revision, out)
			}
			return showRevisions(cmd.Context(), cmd.OutOrStdout(), c, w, out)
		},
	}
	out.register(cmd)
	cmd.Flags().Int64Var(&revision, "revision", 0, "show this revision's rules")
	return cmd
}

func showRevisions(ctx context.Context, w io.Writer, c *api.ClientWithResponses, wl flow.Workload, out output) error {
	detail, err := c.GetWorkloadWithResponse(ctx, wl.Namespace, wl.Kind, wl.Name)
	if err := expect(detail, err); err != nil {
		return err
	}
	res, err := c.ListRevisionsWithResponse(ctx, wl.Namespace, wl.Kind, wl.Name)
	if err := expect(res, err); err != nil {
		return err
	}
	slots := detail.JSON200.Summary.Requested
	var names []string
	var rows [][]string
	for _, r := range *res.JSON200 {
		names = append(names, fmt.Sprintf("%s@%d", wl, r.Number))
		var in []string
		if slots.Live != nil && *slots.Live == r.Number {
			in = append(in, "live")
		}
		if slots.Staged != nil && *slots.Staged == r.Number {
			in = append(in, "staged")
		}
		rows = append(rows, []string{strconv.FormatInt(r.Number, 10), strings.Join(in, ","), string(r.Origin),
			r.Author, r.CreatedAt.Local().Format(time.DateTime), strconv.Itoa(len(r.Rules)), r.Digest[:12]})
	}
	return out.print(w, *res.JSON200, names,
		[]string{"REVISION", "SLOT", "ORIGIN", "AUTHOR", "CREATED", "RULES", "DIGEST"}, rows)
}

func showRevision(ctx context.Context, w io.Writer, c *api.ClientWithResponses, wl flow.Workload, n int64, out output) error {
	res, err := c.GetRevisionWithResponse(ctx, wl.Namespace, wl.Kind, wl.Name, n)
	if err := expect(res, err); err != nil {
		return err
	}
	rows := make([][]string, 0, len(res.JSON200.Rules))
	for _, r := range res.JSON200.Rules {
		rows = append(rows, []string{string(r.Direction), r.Sentence})
	}
	detail, err := c.GetWorkloadWithResponse(ctx, wl.Namespace, wl.Kind, wl.Name)
	if err := expect(detail, err); err != nil {
		return err
	}
	for _, g := range detail.JSON200.Guardrails {
		rows = append(rows, []string{"guardrail", g.Name + ": " + g.Sentence})
	}
	return out.print(w, res.JSON200, []string{fmt.Sprintf("%s@%d", wl, n)}, []string{"DIRECTION", "RULE"}, rows)
}

// slotAction is one of the commands that change a workload's slots.
type slotAction struct {
	verb, short string
	needsNumber bool
	call        func(context.Context, *api.ClientWithResponses, flow.Workload, api.Promotion) (*slotResult, error)
}

// slotResult is the answer to a change of slots.
type slotResult struct {
	*api.SlotResult
	applied bool // by every connected node that holds the workload
}

var (
	slotStage = slotAction{"stage", "Audit a revision: judge live traffic by it and drop nothing", true,
		func(ctx context.Context, c *api.ClientWithResponses, w flow.Workload, body api.Promotion) (*slotResult, error) {
			res, err := c.StageRevisionWithResponse(ctx, w.Namespace, w.Kind, w.Name, api.SlotChange{Revision: body.Revision, Version: body.Version})
			if err := expect(res, err); err != nil {
				return nil, err
			}
			return resultOf(res.JSON200, res.JSON202), nil
		}}
	slotPromote = slotAction{"promote", "Enforce the staged revision: drop what it does not allow", true,
		func(ctx context.Context, c *api.ClientWithResponses, w flow.Workload, body api.Promotion) (*slotResult, error) {
			res, err := c.PromoteRevisionWithResponse(ctx, w.Namespace, w.Kind, w.Name, body)
			if err := expect(res, err); err != nil {
				return nil, err
			}
			return resultOf(res.JSON200, res.JSON202), nil
		}}
	slotRollback = slotAction{"rollback", "Bring back what was live before, as a new revision", false,
		func(ctx context.Context, c *api.ClientWithResponses, w flow.Workload, body api.Promotion) (*slotResult, error) {
			res, err := c.RollbackWithResponse(ctx, w.Namespace, w.Kind, w.Name, api.SlotChange{Revision: body.Revision, Version: body.Version})
			if err := expect(res, err); err != nil {
				return nil, err
			}
			return resultOf(res.JSON200, res.JSON202), nil
		}}
)

func resultOf(applied, requested *api.SlotResult) *slotResult {
	if applied != nil {
		return &slotResult{applied, true}
	}
	return &slotResult{requested, false}
}

func newSlotCommand(client *clientFlags, action slotAction) *cobra.Command {
	var (
		revision int64
		dryRun   bool
		anyway   string
	)
	cmd := &cobra.Command{
		Use:   action.verb + " NAMESPACE/KIND/NAME",
		Short: action.short,
		Args:  oneWorkload,
		RunE: func(cmd *cobra.Command, args []string) error {
			w, err := flow.ParseWorkload(args[0])
			if err != nil {
				return err
			}
			if action.needsNumber && revision <= 0 {
				return fmt.Errorf("--revision: name the number of a revision; `ringfence policy show %s` lists them", w)
			}
			c, err := client.connect()
			if err != nil {
				return err
			}
			detail, err := c.GetWorkloadWithResponse(cmd.Context(), w.Namespace, w.Kind, w.Name)
			if err := expect(detail, err); err != nil {
				return err
			}
			sum := detail.JSON200.Summary
			if !action.needsNumber {
				if sum.Requested.Live == nil {
					return fmt.Errorf("%s has no live revision to go back from", w)
				}
				revision = *sum.Requested.Live
			}
			if dryRun {
				fmt.Fprintf(cmd.OutOrStdout(), "would %s %s revision %d (dry run)\n", action.verb, w, revision)
				return nil
			}
			ask := api.Promotion{Revision: revision, Version: sum.Version}
			if cmd.Flags().Changed("anyway") {
				ask.Anyway = &anyway
			}
			res, err := action.call(cmd.Context(), c, w, ask)
			if err != nil {
				return action.explain(detail.JSON200, err)
			}
			printSlotResult(cmd.OutOrStdout(), w, res)
			return nil
		},
	}
	cmd.Flags().BoolVar(&dryRun, "dry-run", false, "say what would be done and do nothing")
	if action.needsNumber {
		cmd.Flags().Int64Var(&revision, "revision", 0, "the revision's number")
	}
	if action.verb == slotPromote.verb {
		cmd.Flags().StringVar(&anyway, "anyway", "", "why to enforce although learning is not complete: \"not ready\" is passed over as far as that alone stands against it, and the activity log says so")
	}
	return cmd
}

// explain adds to a refusal what a person may decide.
func (a *slotAction) explain(w *api.Workload, err error) error {
	if refused, ok := errors.AsType[*apiError](err); !ok || refused.code != string(api.ErrorCodeNotReady) || w.Actions.Unlearned == nil {
		return err
	}
	return fmt.Errorf("not ready: %w; wait, or decide it yourself with --anyway REASON", err)
}

func printSlotResult(w io.Writer, wl flow.Workload, res *slotResult) {
	s := res.Summary
	fmt.Fprintf(w, "%s: live %s, staged %s, ingress %s, egress %s", wl, revisionText(s.Requested.Live),
		revisionText(s.Requested.Staged), s.IngressStage, s.EgressStage)
	switch {
	case !res.applied:
		fmt.Fprintln(w, "; requested, not every node has applied it yet")
	case res.SwitchedAt == nil || res.SwitchedAt.Before(res.RequestedAt):
		fmt.Fprintf(w, "; in the kernel of %d node(s)\n", len(res.Nodes))
	default:
		fmt.Fprintf(w, "; in the kernel of %d node(s) after %s\n", len(res.Nodes),
			res.SwitchedAt.Sub(res.RequestedAt).Round(10*time.Microsecond))
	}
}
