package bpf

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// MountBPFFS mounts a bpffs that only root can enter at dir, which it makes if
// needed. It does nothing when one is mounted there.
func MountBPFFS(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return fmt.Errorf("bpffs directory: %w", err)
	}
	mounted, err := isBPFMount(dir)
	if err != nil {
		return err
	}
	if mounted {
		return checkPrivate(dir)
	}
	const flags = unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	if err := unix.Mount("bpf", dir, "bpf", flags, "mode=0700"); err != nil {
		if errors.Is(err, unix.EPERM) {
			return fmt.Errorf("mount bpffs at %s: %w: run as root", dir, err)
		}
		return fmt.Errorf("mount bpffs at %s: %w", dir, err)
	}
	return nil
}

// checkPrivate refuses a directory that others than root can enter: whoever
// reaches the pins can change what the programs do.
func checkPrivate(dir string) error {
	var st unix.Stat_t
	if err := unix.Stat(dir, &st); err != nil {
		return fmt.Errorf("stat %s: %w", dir, err)
	}
	if st.Uid != 0 || st.Mode&0o077 != 0 {
		return fmt.Errorf("%s is open to others (owner %d, mode %04o): make it root's own, with mode 0700", dir, st.Uid, st.Mode&0o7777)
	}
	return nil
}

// UnmountBPFFS unmounts the bpffs at dir. Programs that nothing else holds go
// with it. No bpffs there is no error.
func UnmountBPFFS(dir string) error {
	mounted, err := isBPFMount(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil || !mounted {
		return err
	}
	if err := unix.Unmount(dir, 0); err != nil {
		return fmt.Errorf("unmount bpffs at %s: %w", dir, err)
	}
	return nil
}

// isBPFMount reports whether dir is a bpffs's root, not a directory within.
func isBPFMount(dir string) (bool, error) {
	onBPF, err := isBPFFS(dir)
	if err != nil || !onBPF {
		return false, err
	}
	var self, parent unix.Stat_t
	if err := unix.Stat(dir, &self); err != nil {
		return false, fmt.Errorf("stat %s: %w", dir, err)
	}
	if err := unix.Stat(filepath.Dir(filepath.Clean(dir)), &parent); err != nil {
		return false, fmt.Errorf("stat %s: %w", filepath.Dir(dir), err)
	}
	return self.Dev != parent.Dev, nil
}

func isBPFFS(dir string) (bool, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(dir, &fs); err != nil {
		return false, fmt.Errorf("statfs %s: %w", dir, err)
	}
	return fs.Type == unix.BPF_FS_MAGIC, nil
}
