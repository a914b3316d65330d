package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/api"
	"github.com/ringfence/ringfence/internal/flow"
	"github.com/ringfence/ringfence/internal/query"
)

// maxFlowsPage is the most that the server gives at a time.
const maxFlowsPage = 1000

// flowsFlags are what of the flows is wanted. Each flag is a condition of the
// filter, of the same words.
type flowsFlags struct {
	client clientFlags
	out    output
	conditions
	since, until, filter string
	limit                int
	follow               bool
}

// conditions are flags by the field of the filter that they set.
type conditions map[string]*[]string

var flowsConditions = []struct{ flag, short, field, usage string }{
	{"namespace", "n", "namespace", "namespace of either end"},
	{"selector", "l", "label", "label of either end: key, key=value or key!=value; one end must hold all that are given (--filter from.label=… says which)"},
	{"workload", "", "workload", "either end, as namespace/name or namespace/kind/name"},
	{"from", "", "from.workload", "the initiator, as namespace/name or namespace/kind/name"},
	{"to", "", "to.workload", "the responder, as namespace/name or namespace/kind/name"},
	{"port", "", "to.port", "the responder's port, or a range such as 8000-8100"},
	{"protocol", "", "protocol", "TCP, UDP, SCTP, ICMP, ICMPv6 or a number"},
	{"verdict", "", "verdict", "forwarded, audited or dropped"},
	{"reason", "", "reason", "why the live or the staged slot judged so"},
	{"direction", "", "direction", "ingress, egress or unknown, as the observed endpoint sees it"},
	{"cidr", "", "address", "an address or prefix of either end"},
	{"node", "", "node", "the node whose agent saw it"},
}

func newFlowsCommand() *cobra.Command {
	flags := flowsFlags{conditions: conditions{}}
	cmd := &cobra.Command{
		Use:   "flows",
		Short: "List flow records, newest first, or follow them as they are stored",
		Long: `List flow records, newest first, or with -f as they are stored.

Several values of a flag, separated by commas, are alternatives; several flags
must all hold. --filter takes the language of the web UI's filter, for what has
no flag, and knows
` + folded(query.Fields()) + `.`,
		Example: `  ringfence flows --since 10m --verdict dropped,audited
  ringfence flows --to boutique/redis-cart --port 6379 -o json
  ringfence flows -f -n boutique --filter '-to.label=tier=db staged.verdict=deny'`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return flags.run(cmd) },
	}
	flags.client.register(cmd)
	flags.out.register(cmd)
	f := cmd.Flags()
	for _, c := range flowsConditions {
		flags.conditions[c.flag] = f.StringSliceP(c.flag, c.short, nil, c.usage)
	}
	f.StringVar(&flags.since, "since", "1h", "a time, or how far back to look: 15m, 2h, 7d")
	f.StringVar(&flags.until, "until", "", "a time, or how long ago to stop")
	f.StringVar(&flags.filter, "filter", "", "further conditions: from.namespace=shop to.port=443 -to.label=tier=db")
	f.IntVar(&flags.limit, "limit", 100, "at most so many; with -f, so many of those that are stored already")
	f.BoolVarP(&flags.follow, "follow", "f", false, "go on with records as they are stored, until Ctrl-C")
	return cmd
}

func (o *flowsFlags) run(cmd *cobra.Command) error {
	if err := o.validate(); err != nil {
		return err
	}
	filter, err := o.text(cmd, time.Now())
	if err != nil {
		return err
	}
	c, err := o.client.connect()
	if err != nil {
		return err
	}
	if o.follow {
		return followFlows(cmd.Context(), c, filter, o.limit, o.printer(cmd.OutOrStdout()))
	}
	flows, more, err := readFlows(cmd.Context(), c, filter, o.limit)
	if err != nil {
		return err
	}
	if o.out.format == "table" {
		switch stderr := cmd.ErrOrStderr(); {
		case len(flows) == 0:
			fmt.Fprintln(stderr, "no flow matches; a longer --since or fewer conditions may find some")
			return nil
		case more:
			defer fmt.Fprintf(stderr, "these are the newest %d; --limit shows more\n", len(flows))
		}
	}
	rows := make([][]string, 0, len(flows))
	for i := range flows {
		rows = append(rows, flowCells(&flows[i]))
	}
	return o.out.print(cmd.OutOrStdout(), flows, nil, flowHeader, rows)
}

func (o *flowsFlags) validate() error {
	if err := o.out.validate(); err != nil {
		return err
	}
	switch {
	case o.out.format == "name":
		return errors.New("-o name: flows have no names; want table, json or yaml")
	case o.follow && o.out.format == "yaml":
		return errors.New("-o yaml: a list without an end is no document; want table or json with -f")
	case o.follow && o.until != "":
		return errors.New("--until: following has no end; leave out one of the two")
	case o.limit < 0 || o.limit == 0 && !o.follow:
		return fmt.Errorf("--limit %d: want a positive number", o.limit)
	case o.follow && o.limit > maxFlowsPage:
		return fmt.Errorf("--limit %d: with -f at most %d", o.limit, maxFlowsPage)
	}
	return nil
}

// text is the filter that the flags spell.
func (o *flowsFlags) text(cmd *cobra.Command, now time.Time) (string, error) {
	f, err := query.Parse(o.filter, now)
	if err != nil {
		return "", fmt.Errorf("--filter: %w", err)
	}
	for _, c := range flowsConditions {
		values := *o.conditions[c.flag]
		if len(values) == 0 {
			continue
		}
		groups := [][]string{values}
		if c.flag == "selector" { // as kubectl has it: every requirement must hold
			groups = slices.Collect(slices.Chunk(values, 1))
		}
		for _, group := range groups {
			t, err := query.NewTerm(c.field, group...)
			if err != nil {
				return "", fmt.Errorf("--%s: %w", c.flag, err)
			}
			f.Terms = append(f.Terms, t)
		}
	}
	for _, bound := range []struct {
		flag, text string
		at         *time.Time
	}{{"since", o.since, &f.Since}, {"until", o.until, &f.Until}} {
		switch given := cmd.Flags().Changed(bound.flag); {
		case !bound.at.IsZero() && given:
			return "", fmt.Errorf("--%s: the filter says it too; leave out one of the two", bound.flag)
		case !bound.at.IsZero() || bound.text == "":
			continue
		}
		if *bound.at, err = query.ParseTime(bound.text, now); err != nil {
			return "", fmt.Errorf("--%s: %w", bound.flag, err)
		}
	}
	if text := f.String(); len(text) <= query.MaxText {
		return text, nil
	}
	return "", fmt.Errorf("the conditions are longer than %d bytes: give fewer values", query.MaxText)
}

// readFlows reads pages until there are limit records, and reports whether
// there are more.
func readFlows(ctx context.Context, c *api.ClientWithResponses, filter string, limit int) ([]api.Flow, bool, error) {
	flows := []api.Flow{}
	params := api.ListFlowsParams{Filter: &filter}
	p := newProgress(os.Stderr, "flows", limit)
	defer p.end()
	for {
		size := min(limit-len(flows), maxFlowsPage)
		params.Limit = &size
		res, err := c.ListFlowsWithResponse(ctx, &params)
		if err := expect(res, err); err != nil {
			return nil, false, err
		}
		flows = append(flows, res.JSON200.Flows...)
		p.set(len(flows))
		params.Cursor = res.JSON200.Next
		if len(flows) >= limit || params.Cursor == nil {
			return flows, params.Cursor != nil, nil
		}
	}
}

var flowHeader = []string{"TIME", "NODE", "DIRECTION", "FROM", "TO", "PROTOCOL",
	"EVENT", "PACKETS", "BYTES", "VERDICT", "LIVE", "STAGED"}

func flowCells(f *api.Flow) []string {
	return []string{
		f.Time.Local().Format("01-02 15:04:05.000"),
		f.Node,
		string(f.Direction),
		endText(f.Source, f.SourceAddress, f.SourcePort),
		endText(f.Destination, f.DestinationAddress, f.Port),
		f.Protocol,
		f.Event,
		strconv.FormatInt(f.PacketsForward+f.PacketsReverse, 10),
		strconv.FormatInt(f.BytesForward+f.BytesReverse, 10),
		f.Outcome,
		judgementText(f.Live),
		judgementText(f.Staged),
	}
}

// printer writes records as they come, each on a line of its own.
func (o *flowsFlags) printer(w io.Writer) func([]api.Flow) error {
	if o.out.format == "json" {
		return func(flows []api.Flow) error { return printLines(w, flows) }
	}
	table := &growingTable{w: w, header: flowHeader}
	return func(flows []api.Flow) error {
		rows := make([][]string, 0, len(flows))
		for i := range flows {
			rows = append(rows, flowCells(&flows[i]))
		}
		return table.add(rows)
	}
}

func endText(p api.Party, address string, port int) string {
	host := net.JoinHostPort(address, strconv.Itoa(port))
	switch {
	case p.Workload != nil:
		return workloadText(*p.Workload) + " " + host
	case p.Reserved != nil && *p.Reserved != "":
		return *p.Reserved + " " + host
	}
	return host
}

func judgementText(j api.Judgement) string {
	if j.Verdict == flow.VerdictUnknown.String() {
		return "-"
	}
	if j.Revision != nil {
		return fmt.Sprintf("%s (%s, r%d)", j.Verdict, j.Reason, *j.Revision)
	}
	return fmt.Sprintf("%s (%s)", j.Verdict, j.Reason)
}

func workloadText(w api.WorkloadRef) string { return w.Namespace + "/" + w.Kind + "/" + w.Name }

// folded is a list in lines as wide as a help text's.
func folded(words []string) string {
	var b strings.Builder
	width := 0
	for i, w := range words {
		if i > 0 {
			b.WriteByte(',')
			if width += len(w) + 2; width > 80 {
				b.WriteByte('\n')
				width = 0
			} else {
				b.WriteByte(' ')
			}
		}
		if width == 0 {
			width = len(w)
		}
		b.WriteString(w)
	}
	return b.String()
}
