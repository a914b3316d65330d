package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"

	"github.com/ringfence/ringfence/internal/api"
)

// errInterrupted ends a command that goes on until Ctrl-C. It is no failure and
// has nothing to say.
var errInterrupted = errors.New("interrupted")

// maxEvent bounds one event of the server's stream, in bytes: all that it gives
// at a time.
const maxEvent = 256 << 20

// followFlows prints records as they are stored, after so many of the newest,
// until ctx ends.
func followFlows(ctx context.Context, c *api.ClientWithResponses, filter string, last int, show func([]api.Flow) error) error {
	res, err := c.TailFlows(ctx, &api.TailFlowsParams{Filter: &filter, Last: &last})
	if err != nil {
		return interrupted(ctx, expect(nil, err))
	}
	defer res.Body.Close() //nolint:errcheck // it was read
	if res.StatusCode != http.StatusOK {
		parsed, err := api.ParseTailFlowsResponse(res)
		return expect(parsed, err)
	}
	err = readEvents(res.Body, func(kind string, data []byte) error {
		switch kind {
		case "flows":
			var flows []api.Flow
			if err := json.Unmarshal(data, &flows); err != nil {
				return fmt.Errorf("the server sent what is no list of flows: %w", err)
			}
			return show(flows)
		case "problem":
			var e api.Error
			if err := json.Unmarshal(data, &e); err != nil {
				return fmt.Errorf("the server sent what is no error: %w", err)
			}
			if e.Code != api.ErrorCodeUnavailable {
				return errors.New(e.Message)
			}
			fmt.Fprintln(os.Stderr, e.Message+"; waiting for it")
		}
		return nil
	})
	if err == nil {
		err = errors.New("the server ended the stream: look whether it runs, and follow again")
	}
	return interrupted(ctx, err)
}

func interrupted(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return errInterrupted
	}
	return err
}

// readEvents calls each for every server-sent event, until the stream ends.
func readEvents(r io.Reader, each func(kind string, data []byte) error) error {
	lines := bufio.NewScanner(r)
	lines.Buffer(nil, maxEvent)
	var kind string
	var data []byte
	for lines.Scan() {
		name, value, _ := strings.Cut(lines.Text(), ": ")
		switch name {
		case "event":
			kind = value
		case "data":
			data = []byte(value)
		case "":
			if lines.Text() == "" && kind != "" {
				if err := each(kind, data); err != nil {
					return err
				}
				kind, data = "", nil
			}
		}
	}
	if err := lines.Err(); err != nil {
		return fmt.Errorf("the server ended the stream: %w; look whether it runs, and follow again", err)
	}
	return nil
}

// printLines writes each value as one line of JSON, all of them at once.
func printLines[T any](w io.Writer, values []T) error {
	var out bytes.Buffer
	enc := json.NewEncoder(&out)
	for i := range values {
		if err := enc.Encode(&values[i]); err != nil {
			return err
		}
	}
	_, err := w.Write(out.Bytes())
	return err
}

// growingTable is a table whose rows come bit by bit: a column grows when a cell
// needs it, and never shrinks.
type growingTable struct {
	w      io.Writer
	header []string
	widths []int
}

func (t *growingTable) add(rows [][]string) error {
	if len(rows) == 0 {
		return nil
	}
	if t.widths == nil {
		t.widths = make([]int, len(t.header))
		rows = append([][]string{t.header}, rows...)
	}
	for _, row := range rows {
		for i, cell := range row {
			t.widths[i] = max(t.widths[i], len([]rune(cell)))
		}
	}
	var out strings.Builder
	for _, row := range rows {
		for i, cell := range row {
			if i == len(row)-1 {
				out.WriteString(cell + "\n")
				break
			}
			fmt.Fprintf(&out, "%-*s  ", t.widths[i], cell)
		}
	}
	_, err := io.WriteString(t.w, out.String())
	return err
}
