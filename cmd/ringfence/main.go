// Command ringfence learns what talks to what, audits a default-deny policy
// against live traffic, and enforces it with a way back.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
)

// version is set by the linker.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	code := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	os.Exit(code)
}

// run executes one command line and returns the process's exit code: 0 when it
// did what was asked, what a shell gives for a signal when one ended what has no
// end of its own, 1 otherwise.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) int {
	root := newRootCommand() //nolint:contextcheck // commands get theirs from ExecuteContext
	root.SetArgs(args)
	root.SetOut(stdout)
	root.SetErr(stderr)
	err := root.ExecuteContext(ctx)
	switch {
	case err == nil:
		return 0
	case errors.Is(err, errCheckFailed):
		return 1 // the table said it
	case errors.Is(err, errInterrupted):
		return 128 + int(syscall.SIGINT)
	case errors.Is(err, syscall.EPIPE):
		return 128 + int(syscall.SIGPIPE) // who read has enough
	case ctx.Err() != nil && errors.Is(err, context.Canceled):
		err = errors.New("interrupted; nothing that was being started is left")
	}
	fmt.Fprintln(stderr, errorPrefix+oneLine(err))
	return 1
}

// oneLine folds joined errors, which print one a line, into a single line.
func oneLine(err error) string {
	return strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ")
}

func newRootCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "ringfence",
		Short: "Learn, audit and enforce least-privilege network policies",
		Long: `ringfence watches the traffic of workloads with eBPF, derives each workload's
least-privilege allowlist, audits it against live traffic without dropping
anything, and switches the workload to default-deny with one command or click.

Start with "ringfence demo": it builds a lab of network namespaces on this
machine and goes the whole way round. It touches nothing outside the lab.`,
		SilenceUsage:  true,
		SilenceErrors: true,
	}
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error {
		return fmt.Errorf("%w; see %s --help", err, cmd.CommandPath())
	})
	root.AddCommand(
		newDemoCommand(), newUpCommand(), newDownCommand(),
		newFlowsCommand(), newStoreCommand(), newPolicyCommand(), newPanicCommand(), newPasswordCommand(), newDenyListCommand(), newVersionCommand(),
		newRecommendCommand(), newReplayCommand(), newDiffCommand(), newExplainCommand(), newConnectivityCommand(),
		newServerCommand(), newAgentCommand(), newEngineCommand(), newLabHostCommand(),
	)
	return root
}

// exactArgs wants n arguments, minArgs as many or more. They say which those
// are when they are not there.
func exactArgs(n int, what string) cobra.PositionalArgs { return wantArgs(n, n, what) }

func minArgs(n int, what string) cobra.PositionalArgs { return wantArgs(n, math.MaxInt, what) }

func wantArgs(least, most int, what string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) < least || len(args) > most {
			return fmt.Errorf("name %s; see %s --help", what, cmd.CommandPath())
		}
		return nil
	}
}
