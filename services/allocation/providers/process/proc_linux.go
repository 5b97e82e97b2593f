package process

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// stat is what /proc/PID/stat says of a process.
type stat struct {
	pid    int
	zombie bool // all of its threads have ended
	group  int
	start  uint64 // clock ticks since boot
}

// statOf returns false for a process that is not there.
func statOf(pid int) (stat, bool) {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return stat{}, false
	}
	// The second field is the program's name in parentheses, and may hold anything, parentheses and spaces too.
	fields := strings.Fields(string(raw[bytes.LastIndexByte(raw, ')')+1:]))
	const state, group, threads, start = 0, 2, 17, 19 // fields 3, 5, 20 and 22 of the line
	if len(fields) <= start {
		return stat{}, false
	}
	// The first thread may have ended alone; the others still hold the ports and files.
	s := stat{pid: pid, zombie: (fields[state] == "Z" || fields[state] == "X") && fields[threads] <= "1"}
	var errGroup, errStart error
	s.group, errGroup = strconv.Atoi(fields[group])
	s.start, errStart = strconv.ParseUint(fields[start], 10, 64)
	return s, errGroup == nil && errStart == nil
}

// processes returns all that are alive and match.
func processes(match func(stat) bool) []stat {
	dir, err := os.Open("/proc")
	if err != nil {
		return nil
	}
	defer func() { _ = dir.Close() }()
	names, _ := dir.Readdirnames(-1)
	var found []stat
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if s, ok := statOf(pid); ok && !s.zombie && match(s) {
			found = append(found, s)
		}
	}
	return found
}

// carries reports whether the process was started with the setting in its environment.
func carries(pid int, setting string) bool {
	raw, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	return err == nil && slices.ContainsFunc(bytes.Split(raw, []byte{0}), func(s []byte) bool { return string(s) == setting })
}

// bootID names this life of the machine.
func bootID() string {
	raw, _ := os.ReadFile("/proc/sys/kernel/random/boot_id")
	return strings.TrimSpace(string(raw))
}

// hasExited reports whether a child of ours has ended. It is not reaped: until it is, its number, which is its group's, is nobody else's.
func hasExited(pid int) bool {
	for {
		var info unix.Siginfo
		err := unix.Waitid(unix.P_PID, pid, &info, unix.WEXITED|unix.WNOHANG|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			return err != nil || info.Signo != 0
		}
	}
}

// signalGroup signals all processes of a group.
func signalGroup(group int, sig syscall.Signal) { _ = unix.Kill(-group, sig) } // gone already is as good

// signalOne signals one process, unless its number belongs to another one by now.
func signalOne(s stat, sig syscall.Signal) {
	fd, err := unix.PidfdOpen(s.pid, 0)
	if err != nil {
		return
	}
	defer func() { _ = unix.Close(fd) }()
	if now, ok := statOf(s.pid); ok && now.start == s.start {
		_ = unix.PidfdSendSignal(fd, sig, nil, 0) // gone already is as good
	}
}
