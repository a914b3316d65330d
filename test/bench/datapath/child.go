package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// The ends of a connection are processes of their own, so that what they cost
// can be told from the rest. They speak to the command over standard input and
// output, and end with it.

const (
	messageSize = 64
	bulkBuffer  = 128 << 10
)

// runChild is the main function of such a process.
func runChild(role string) error {
	runtime.GOMAXPROCS(1)
	debug.SetGCPercent(-1)
	everywhere := &unix.SockaddrInet4{Port: benchPort}
	switch role {
	case "answer":
		return serve(everywhere, answer)
	case "sink":
		return serve(everywhere, sink)
	case "ask":
		asked := 0
		return command(func(n int) error {
			for range n {
				asked++
				if err := ask(serverAt(asked % serverAddrs)); err != nil {
					return err
				}
			}
			return nil
		})
	case "send":
		return command(func(n int) error { return send(serverAt(0), n) })
	}
	return fmt.Errorf("no such role: %q of %q", role, flag.Args())
}

// command does work as often as it is told to, and says how long it took in ns.
func command(work func(n int) error) error {
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		n, err := strconv.Atoi(lines.Text())
		if err != nil {
			return err
		}
		start := time.Now()
		if err := work(n); err != nil {
			return err
		}
		fmt.Println(time.Since(start).Nanoseconds())
	}
	return lines.Err()
}

// serverAt is one of the server's addresses.
func serverAt(i int) unix.Sockaddr {
	return &unix.SockaddrInet4{Port: benchPort, Addr: serverAddress(i).As4()}
}

// serve accepts one connection after the other, until standard input ends.
func serve(address unix.Sockaddr, handle func(fd int) error) error {
	l, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	if err := errors.Join(unix.Bind(l, address), unix.Listen(l, 128)); err != nil {
		return err
	}
	fmt.Println("listening")
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(0)
	}()
	for {
		fd, _, err := unix.Accept4(l, unix.SOCK_CLOEXEC)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return err
		}
		if err := errors.Join(handle(fd), unix.Close(fd)); err != nil {
			return err
		}
	}
}

// answer closes first, as most servers of short connections do.
func answer(fd int) error {
	var b [messageSize]byte
	if _, err := unix.Read(fd, b[:]); err != nil {
		return err
	}
	_, err := unix.Write(fd, b[:])
	return err
}

func ask(address unix.Sockaddr) error {
	fd, err := dial(address)
	if err != nil {
		return err
	}
	var b [messageSize]byte
	if _, err := unix.Write(fd, b[:]); err != nil {
		return err
	}
	for {
		n, err := unix.Read(fd, b[:])
		if err != nil {
			return err
		}
		if n == 0 {
			return unix.Close(fd)
		}
	}
}

func dial(address unix.Sockaddr) (int, error) {
	fd, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return 0, err
	}
	if err := unix.Connect(fd, address); err != nil {
		return 0, fmt.Errorf("connect: %w", err)
	}
	return fd, nil
}

func sink(fd int) error {
	b := make([]byte, bulkBuffer)
	for {
		n, err := unix.Read(fd, b)
		if err != nil || n == 0 {
			return err
		}
	}
}

// send writes n bytes and waits until the other side has read them all.
func send(address unix.Sockaddr, n int) error {
	fd, err := dial(address)
	if err != nil {
		return err
	}
	b := make([]byte, bulkBuffer)
	for n > 0 {
		sent, err := unix.Write(fd, b[:min(n, len(b))])
		if err != nil {
			return err
		}
		n -= sent
	}
	if err := unix.Shutdown(fd, unix.SHUT_WR); err != nil {
		return err
	}
	if _, err := unix.Read(fd, b); err != nil {
		return err
	}
	return unix.Close(fd)
}
