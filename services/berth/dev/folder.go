package dev

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/berth-dev/berth/pkg/app"
)

// folder is where game servers' output, their state and the attach bootstrap go.
type folder struct {
	path      string
	temporary bool
}

// openFolder makes the folder if it is not there; an empty path is one that lasts as long as the run.
func openFolder(path string) (*folder, error) {
	if path == "" {
		path, err := os.MkdirTemp("", "berth-")
		return &folder{path, true}, err
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, err
	}
	if err := usable(path); err != nil {
		return nil, fmt.Errorf("the folder %s cannot be used: choose another with --dir (%w)", path, err)
	}
	return &folder{path, false}, nil
}

// usable makes a folder and puts something into it: that it is there does not say that this works.
func usable(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	probe, err := os.CreateTemp(path, ".probe-*")
	if err != nil {
		return err
	}
	return errors.Join(probe.Close(), os.Remove(probe.Name()))
}

// close removes a temporary folder.
func (f *folder) close() error {
	if !f.temporary {
		return nil
	}
	return os.RemoveAll(f.path)
}

// module closes the folder when nothing writes into it any more.
func (f *folder) module() app.Module {
	return app.Module{Name: "folder", Build: func(_ context.Context, b *app.Builder) error {
		b.OnStop(app.StageLast, "folder", func(context.Context) error { return f.close() })
		return nil
	}}
}
