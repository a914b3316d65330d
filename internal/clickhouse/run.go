package clickhouse

import (
	"errors"
	"flag"
	"fmt"
	"io"
	"math"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// File descriptors that the parent passes beside standard input, whose end is
// the order to leave.
const (
	lockFD   = 3 // held open, never used
	statusFD = 4 // the child's last words
)

// parentDeath comes when the parent dies. Before there is a handler it ends the
// child, and it takes effect where the parent's end of the pipe was copied.
const parentDeath = syscall.SIGHUP

// nowListening is the first line on the status pipe of a child that serves.
const nowListening = "listening\n"

// endedByItself is all that the child knows when the engine wrote its reason to
// standard error.
const endedByItself = "the engine ended by itself"

// startListening is all the library's client is asked to do; afterwards it
// waits for input that never comes.
const startListening = "SYSTEM START LISTEN TCP"

// RunEngine is the body of the child process. It serves until standard input
// ends, and returns nil after an orderly end. What it returns otherwise has been
// told to the parent already.
//
// Signals that ask a process to end are left to the parent: a service manager
// sends them to every process at once, and those that write their last rows
// need the engine longer than that.
func RunEngine(args []string) error {
	err := runEngine(args)
	if err != nil {
		tellParent(err.Error())
	}
	return err
}

// tellParent writes to the status pipe. Without a parent nobody listens, which
// does not matter then.
func tellParent(message string) {
	_, _ = unix.Write(statusFD, []byte(message))
}

func runEngine(args []string) error {
	flags := flag.NewFlagSet("engine", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	dataDir := flags.String("data-dir", "", "")
	libraryPath := flags.String("library", "", "")
	port := flags.Uint("port", 0, "")
	grace := flags.Duration("grace", defaultStopGrace, "")
	if err := flags.Parse(args); err != nil {
		return fmt.Errorf("engine arguments: %w", err)
	}
	if *dataDir == "" || *libraryPath == "" || *port == 0 || *port > math.MaxUint16 {
		return errors.New("engine arguments: --data-dir, --library and --port are needed; this command is for ringfence's own use")
	}
	for _, fd := range []int{lockFD, statusFD} {
		unix.CloseOnExec(fd)
	}
	unix.Umask(0o077)
	signal.Ignore(syscall.SIGPIPE, syscall.SIGINT, syscall.SIGTERM, syscall.SIGQUIT)

	hangUp, err := takeTerminal()
	if err != nil {
		return err
	}
	stop := make(chan struct{})
	go watchParent(stop, hangUp, *grace)

	lib, err := openLibrary(*libraryPath)
	if err != nil {
		return err
	}
	if err := checkVersion(*dataDir, lib.version); err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() {
		err := awaitListening(uint16(*port), stop) //nolint:gosec // checked above
		switch {
		case errors.Is(err, errStopped):
		case err != nil:
			failed <- err
			hangUp()
		default:
			tellParent(nowListening)
		}
	}()
	err = lib.run([]string{
		"clickhouse",
		"-C", filepath.Join(*dataDir, configFile),
		"--path", filepath.Join(*dataDir, dataSubdir),
		"--interactive", "--disable_suggestion",
		"--progress", "off",
		"--history_file", os.DevNull,
		"--log-level", "warning",
		"--query", startListening,
	})
	select {
	case err := <-failed:
		return err
	case <-stop:
		return nil
	default:
	}
	if err == nil {
		return errors.New(endedByItself)
	}
	return err
}

// lifeline is standard input as the parent gave it: a pipe nobody writes to.
var lifeline *os.File

// takeTerminal makes a pseudo-terminal the process's standard input, so that
// the library's client is interactive. Hanging up ends the client's input.
func takeTerminal() (hangUp func(), err error) {
	fd, err := unix.FcntlInt(0, unix.F_DUPFD_CLOEXEC, 10)
	if err != nil {
		return nil, fmt.Errorf("keep standard input: %w", err)
	}
	lifeline = os.NewFile(uintptr(fd), "lifeline")
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open a pseudo-terminal for the engine: %w; mount devpts on /dev/pts", err)
	}
	number, err := unlockTerminal(master)
	if err != nil {
		return nil, fmt.Errorf("open a pseudo-terminal for the engine: %w; mount devpts on /dev/pts", err)
	}
	slave, err := os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, fmt.Errorf("open a pseudo-terminal for the engine: %w; mount devpts on /dev/pts", err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", os.DevNull, err)
	}
	if err := errors.Join(dup2(slave, 0), dup2(null, 1), slave.Close(), null.Close()); err != nil {
		return nil, fmt.Errorf("give the engine its terminal: %w", err)
	}
	go func() { _, _ = io.Copy(io.Discard, master) }() // an unread terminal would block who writes to it
	return func() { _ = master.Close() }, nil          // again does nothing
}

func unlockTerminal(master *os.File) (number int, err error) {
	conn, err := master.SyscallConn()
	if err != nil {
		return 0, err
	}
	controlErr := conn.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
			number, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
		}
	})
	return number, errors.Join(err, controlErr)
}

func dup2(f *os.File, fd int) error {
	return unix.Dup3(int(f.Fd()), fd, 0)
}

// watchParent closes stop and hangs up when the parent is gone or wants the
// engine to go, and ends the process when the engine has not left in time.
func watchParent(stop chan<- struct{}, hangUp func(), grace time.Duration) {
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, lifeline)
		close(ended)
	}()
	orphaned := make(chan os.Signal, 1)
	signal.Notify(orphaned, parentDeath)
	select {
	case <-ended:
	case <-orphaned:
	}
	close(stop)
	hangUp()
	time.Sleep(grace)
	os.Exit(exitNotLeft)
}

// exitNotLeft is the exit code of a child that had to cut the engine off.
const exitNotLeft = 3

// exceptionMark comes before what the engine says of an error.
const exceptionMark = "DB::Exception: "

// firstLine shortens what the engine says of an error to the part for people.
func firstLine(message string) string {
	line, _, _ := strings.Cut(strings.TrimSpace(message), "\n")
	line, _, _ = strings.Cut(line, ", Stack trace")
	if _, rest, ok := strings.Cut(line, exceptionMark); ok {
		line = rest
	}
	return strings.TrimRight(strings.TrimSpace(line), ".")
}
