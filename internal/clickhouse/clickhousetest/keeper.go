package clickhousetest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"testing"
	"time"
)

// keeperLibrary is ZooKeeper with what it needs beside it, of Debian's package libzookeeper-java.
const keeperLibrary = "/usr/share/java/zookeeper.jar"

const keeperStartTime = 30 * time.Second

// startKeeper starts the ZooKeeper in which replicated tables keep their books,
// and returns its address. It ends with the test.
func startKeeper(tb testing.TB) (addr string) {
	tb.Helper()
	java, err := exec.LookPath("java")
	if err == nil {
		_, err = os.Stat(keeperLibrary)
	}
	if err != nil {
		tb.Fatalf("this test needs ZooKeeper: install libzookeeper-java and default-jre-headless, as `make test-go` does (%v)", err)
	}
	dir := tb.TempDir()
	addr = freeAddr(tb)
	_, port, _ := net.SplitHostPort(addr)
	config := fmt.Sprintf("dataDir=%s\nclientPortAddress=127.0.0.1\nclientPort=%s\nmaxClientCnxns=0\nadmin.enableServer=false\n", dir, port)
	file := filepath.Join(dir, "zoo.cfg")
	if err := os.WriteFile(file, []byte(config), 0o600); err != nil {
		tb.Fatal(err)
	}
	// Tests do not cut the power, and use little.
	cmd := exec.Command(java, "-Xmx128m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Dzookeeper.forceSync=no", //nolint:noctx // it lives until the test's end
		"-cp", keeperLibrary, "org.apache.zookeeper.server.ZooKeeperServerMain", file)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var output bytes.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	started, ended := make(chan error), make(chan struct{})
	go func() {
		runtime.LockOSThread() // the signal comes when the thread that forked ends
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		if started <- err; err == nil {
			_ = cmd.Wait() // it never leaves by itself
			close(ended)
		}
	}()
	if err := <-started; err != nil {
		tb.Fatal(err)
	}
	tb.Cleanup(func() {
		_ = cmd.Process.Kill() // it may have ended by itself
		<-ended
	})
	ctx, cancel := context.WithTimeout(tb.Context(), keeperStartTime)
	defer cancel()
	for !keeperServes(ctx, addr) {
		select {
		case <-ended:
			tb.Fatalf("ZooKeeper ended: %s", output.String())
		case <-ctx.Done():
			tb.Fatalf("ZooKeeper did not answer on %s within %s", addr, keeperStartTime)
		case <-time.After(50 * time.Millisecond):
		}
	}
	return addr
}

// keeperServes asks ZooKeeper how it is; one that does not serve yet says nothing of itself.
func keeperServes(ctx context.Context, addr string) bool {
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", addr)
	if err != nil {
		return false
	}
	defer conn.Close() //nolint:errcheck // only asked

	if err := conn.SetDeadline(time.Now().Add(time.Second)); err != nil { // while it starts it may not answer at all
		return false
	}
	if _, err := io.WriteString(conn, "srvr"); err != nil {
		return false
	}
	answer, err := io.ReadAll(conn)
	return err == nil && bytes.Contains(answer, []byte("Mode: standalone"))
}

// freeAddr is one on loopback that nothing listens on.
func freeAddr(tb testing.TB) string {
	tb.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it returns at once
	if err != nil {
		tb.Fatal(err)
	}
	defer l.Close() //nolint:errcheck // nothing went over it
	return l.Addr().String()
}
