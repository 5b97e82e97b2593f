package process

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

// phase is how far a server is in its life, as its state file says.
type phase string

// The phases.
const (
	// phaseIntent: about to be started. Found after a crash, it says to search for the process.
	phaseIntent phase = "intent"
	// phaseStarted: was started; whether it still runs, its process tells.
	phaseStarted phase = "started"
	// phaseExited: ended.
	phaseExited phase = "exited"
)

// record is the state file of one server. It holds no secret.
type record struct {
	Version int    `json:"v"`
	Attempt string `json:"attempt"`
	// Deployment is the mark of the Berth that wanted it.
	Deployment string     `json:"deployment,omitempty"`
	Namespace  string     `json:"namespace,omitempty"`
	Instance   string     `json:"instance,omitempty"`
	Build      string     `json:"build,omitempty"`
	Region     string     `json:"region,omitempty"`
	Endpoints  []endpoint `json:"endpoints,omitempty"`
	Phase      phase      `json:"phase"`
	// Boot, PID and Start name one process for ever: a number is used again, but not with the same start in the same life of the machine.
	Boot  string `json:"boot,omitempty"`
	PID   int    `json:"pid,omitempty"`
	Start uint64 `json:"start,omitempty"` // clock ticks since boot
	// StopTime is when it was asked to stop.
	StopTime time.Time `json:"stop_time,omitzero"`
	// EndTime is when it ended, and Message how.
	EndTime time.Time `json:"end_time,omitzero"`
	Message string    `json:"message,omitempty"`
	// Released says that nobody wants it any more, nor ever again: an Allocate that arrives late starts nothing.
	Released bool `json:"released,omitempty"`
}

type endpoint struct {
	Name     string `json:"name"`
	Host     string `json:"host"`
	Port     uint16 `json:"port"`
	Protocol string `json:"protocol"`
}

const (
	recordVersion = 1
	stateSuffix   = ".json"
	tempSuffix    = ".tmp"
	logSuffix     = ".log"
	oldLogSuffix  = ".log.1"
)

// folder is a provider's state_dir.
type folder string

func (f folder) path(attempt, suffix string) string { return filepath.Join(string(f), attempt+suffix) }

// write stores a record in one step: a crash leaves the old one or the new one.
func (f folder) write(r record) error {
	r.Version = recordVersion
	raw, err := json.Marshal(r)
	if err != nil {
		return err
	}
	temp := f.path(r.Attempt, tempSuffix)
	if err := os.WriteFile(temp, raw, 0o600); err != nil {
		return err
	}
	return os.Rename(temp, f.path(r.Attempt, stateSuffix))
}

// remove deletes what is kept of a server. Its output stays if keepLog is set.
func (f folder) remove(attempt string, keepLog bool) error {
	paths := []string{f.path(attempt, stateSuffix)}
	if !keepLog {
		paths = append(paths, f.path(attempt, logSuffix), f.path(attempt, oldLogSuffix))
	}
	var failed []error
	for _, path := range paths {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

// rotate keeps the last limit bytes of a server's output as an older file and lets the file begin anew, if it has more than that. The server goes on writing into
// the same file, which it has opened to append: what it writes in the instant between the two steps is lost.
func (f folder) rotate(attempt string, limit int64) error {
	path := f.path(attempt, logSuffix)
	info, err := os.Stat(path)
	if err != nil || info.Size() <= limit {
		return err
	}
	from, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { _ = from.Close() }()
	temp := f.path(attempt, tempSuffix+".log")
	to, err := os.OpenFile(temp, os.O_CREATE|os.O_WRONLY|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err = from.Seek(-limit, io.SeekEnd); err == nil { // by now it may have far more
		_, err = io.Copy(to, io.LimitReader(from, 2*limit))
	}
	if err == nil || errors.Is(err, syscall.ENOSPC) { // a full disk gets no emptier by keeping what fills it
		err = errors.Join(err, os.Truncate(path, 0))
	}
	if err = errors.Join(err, to.Close()); err != nil {
		return errors.Join(err, os.Remove(temp))
	}
	return os.Rename(temp, f.path(attempt, oldLogSuffix))
}

// read returns all records, and an error for each file that is none. Half-written files are removed.
func (f folder) read() ([]record, error) {
	files, err := os.ReadDir(string(f))
	if err != nil {
		return nil, err
	}
	var records []record
	var failed []error
	for _, file := range files {
		path := filepath.Join(string(f), file.Name())
		if strings.HasSuffix(file.Name(), tempSuffix) || strings.HasSuffix(file.Name(), tempSuffix+".log") {
			failed = append(failed, os.Remove(path))
			continue
		}
		attempt, ok := strings.CutSuffix(file.Name(), stateSuffix)
		if !ok {
			continue
		}
		raw, err := os.ReadFile(path)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		var r record
		if err := json.Unmarshal(raw, &r); err != nil || r.Attempt != attempt || r.Version != recordVersion {
			failed = append(failed, fmt.Errorf("%s: is no state file of version %d: take it away once no process of its server runs", path, recordVersion))
			continue
		}
		records = append(records, r)
	}
	return records, errors.Join(failed...)
}
