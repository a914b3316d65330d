package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/ringfence/ringfence/internal/control"
)

func newPasswordCommand() *cobra.Command {
	var places layout
	cmd := &cobra.Command{
		Use:   "password",
		Short: "Make a new password for the web UI",
		Long: `Make a new password for the web UI's user, print it, and end every session. "up"
must not run meanwhile; what is enforced stays enforced.`,
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			password, err := places.resetAdmin(cmd.Context())
			if err != nil {
				return err
			}
			printPassword(cmd.OutOrStdout(), control.AdminUser, password)
			return nil
		},
	}
	cmd.Flags().StringVar(&places.StateDir, "state-dir", defaultStateDir, "state directory of \"ringfence up\"")
	return cmd
}

// resetAdmin changes the control store of an `up` that has ended.
func (l layout) resetAdmin(ctx context.Context) (password string, err error) {
	noUsers := fmt.Errorf("%s holds no users: name the --state-dir that `up` was given", l.StateDir)
	if !isOwn(l.StateDir) {
		return "", noUsers
	}
	unlock, err := lockDir(l.StateDir, "end `ringfence up` first")
	if err != nil {
		return "", err
	}
	defer unlock()
	if err := l.finishRestore(); err != nil {
		return "", err
	}
	if _, err := os.Stat(l.controlDB()); err != nil {
		return "", noUsers
	}
	c, err := control.Open(ctx, control.Config{Path: l.controlDB()}, control.Deps{Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, c.Close()) }()
	return c.ResetAdmin(ctx)
}
