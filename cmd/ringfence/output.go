package main

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"
)

// outputFormats are the values of -o.
var outputFormats = []string{"table", "json", "yaml", "name"}

// output prints a list in the format the user asked for.
type output struct {
	format string
	extra  []string // formats that one command alone has
	only   []string // formats in place of the usual ones
}

func (o *output) formats() []string {
	if o.only != nil {
		return o.only
	}
	return slices.Concat(outputFormats, o.extra)
}

func (o *output) register(cmd *cobra.Command) {
	cmd.Flags().StringVarP(&o.format, "output", "o", "table", "one of "+strings.Join(o.formats(), ", "))
}

func (o *output) validate() error {
	if !slices.Contains(o.formats(), o.format) {
		return fmt.Errorf("-o %q: want one of %s", o.format, strings.Join(o.formats(), ", "))
	}
	return nil
}

// print writes v: as it is for json and yaml, by name, or as a table of rows
// under header.
func (o *output) print(w io.Writer, v any, names []string, header []string, rows [][]string) error {
	switch o.format {
	case "json":
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		return enc.Encode(v)
	case "yaml":
		doc, err := json.Marshal(v)
		if err != nil {
			return err
		}
		if doc, err = yaml.JSONToYAML(doc); err != nil {
			return err
		}
		_, err = w.Write(doc)
		return err
	case "name":
		for _, n := range names {
			fmt.Fprintln(w, n)
		}
		return nil
	}
	return printTable(w, header, rows)
}

func printTable(w io.Writer, header []string, rows [][]string) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(tw, strings.Join(header, "\t"))
	for _, r := range rows {
		fmt.Fprintln(tw, strings.Join(r, "\t"))
	}
	return tw.Flush()
}

// revisionText writes a revision number, or a dash for an empty slot.
func revisionText(n *int64) string {
	if n == nil {
		return "-"
	}
	return fmt.Sprint(*n)
}
