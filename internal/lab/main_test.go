package lab

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"testing"
)

// The test binary is also the program of the hosts and of labs to be killed.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 {
		var err error
		switch os.Args[1] {
		case "lab-host":
			err = RunHost(context.Background(), os.Stdin, os.Stdout, os.Args[2:])
		case "lab-run":
			err = runLabUntilKilled(os.Args[2], os.Args[3:])
		default:
			os.Exit(m.Run())
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// runLabUntilKilled says on standard output when its lab is up. Its hosts run
// command, if one is given.
func runLabUntilKilled(stateDir string, command []string) error {
	cfg := testConfig(stateDir)
	if len(command) > 0 {
		cfg.Command = command
	}
	l, err := New(cfg)
	if err != nil {
		return err
	}
	if err := l.Start(context.Background()); err != nil {
		return err
	}
	fmt.Println("up")
	select {}
}

func testConfig(stateDir string) Config {
	exe, err := os.Executable()
	if err != nil {
		panic(err)
	}
	return Config{
		Command:  []string{exe, "lab-host"},
		StateDir: stateDir,
		Logger:   slog.New(slog.DiscardHandler),
	}
}
