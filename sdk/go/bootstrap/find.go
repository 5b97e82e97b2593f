package bootstrap

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"
)

// The places where Find looks, in this order. A variable that is empty counts as not set.
const (
	// EnvDocument is the environment variable that holds the document itself.
	EnvDocument = "BERTH_BOOTSTRAP"
	// EnvFile is the environment variable that names a file with the document.
	EnvFile = "BERTH_BOOTSTRAP_FILE"
	// EnvFD is the environment variable that has the number of an inherited file descriptor to read the document from. It is
	// read to its end and closed, so the document can be found there once.
	EnvFD = "BERTH_BOOTSTRAP_FD"
	// File is the file that is looked for last, in the working directory and then in each directory above it. `berth dev
	// --attach` writes it.
	File = ".berth/bootstrap.json"
)

// NotFoundError means that there is no document anywhere.
type NotFoundError struct {
	// Places are the places that were looked at, in order.
	Places []string
}

// Error implements error.
func (e *NotFoundError) Error() string {
	return "no bootstrap document: looked at " + strings.Join(e.Places, ", ")
}

// InvalidError means that there is a document that cannot be used. Find does not look further then.
type InvalidError struct {
	// Place is where the document is.
	Place string
	// Err is what is wrong with it. It never quotes the document.
	Err error
}

// Error implements error.
func (e *InvalidError) Error() string {
	return fmt.Sprintf("the bootstrap document in %s: %v", e.Place, e.Err)
}

// Unwrap returns what is wrong.
func (e *InvalidError) Unwrap() error { return e.Err }

// Find returns the document that this process was started with: from the environment variables EnvDocument, EnvFile and
// EnvFD, then from File. It fails with a *NotFoundError or an *InvalidError. The context bounds the wait for the one who
// writes into the descriptor.
func Find(ctx context.Context) (*Document, error) {
	var looked []string
	for _, place := range []struct {
		env  string
		read func(context.Context, string) ([]byte, error)
	}{
		{EnvDocument, func(_ context.Context, value string) ([]byte, error) { return []byte(value), nil }},
		{EnvFile, func(_ context.Context, value string) ([]byte, error) { return readFile(value) }},
		{EnvFD, readFD},
	} {
		value := os.Getenv(place.env)
		if value == "" {
			looked = append(looked, place.env+" (not set)")
			continue
		}
		doc, err := place.read(ctx, value)
		return parseFrom(place.env, doc, err)
	}
	dir, err := os.Getwd()
	if err != nil {
		return nil, &NotFoundError{append(looked, fmt.Sprintf("%s (%v)", File, err))}
	}
	for {
		path := filepath.Join(dir, filepath.FromSlash(File))
		doc, err := readFile(path)
		if !errors.Is(err, fs.ErrNotExist) {
			return parseFrom(path, doc, err)
		}
		looked = append(looked, path)
		parent := filepath.Dir(dir)
		if parent == dir {
			return nil, &NotFoundError{looked}
		}
		dir = parent
	}
}

func parseFrom(place string, doc []byte, err error) (*Document, error) {
	if err == nil {
		var d *Document
		if d, err = Parse(doc); err == nil {
			return d, nil
		}
	}
	return nil, &InvalidError{place, err}
}

func readFile(path string) ([]byte, error) {
	f, err := os.Open(path) //nolint:gosec // whoever starts the server names the file
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readAll(f)
}

func readFD(ctx context.Context, number string) ([]byte, error) {
	fd, err := strconv.ParseUint(number, 10, 16)
	if err != nil || fd == 1 || fd == 2 {
		return nil, errors.New("it is not the number of a file descriptor to read from")
	}
	f, err := inherited(uintptr(fd))
	if err != nil {
		return nil, err
	}
	defer f.Close()
	// Ends the wait for a writer when the context ends. Files that cannot wait have no deadlines; they need none.
	stop := context.AfterFunc(ctx, func() { _ = f.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	doc, err := readAll(f)
	if err != nil && ctx.Err() != nil {
		return nil, ctx.Err()
	}
	return doc, err
}

// readAll reads one byte more than is allowed, so that Parse refuses what is too long.
func readAll(r io.Reader) ([]byte, error) { return io.ReadAll(io.LimitReader(r, MaxSize+1)) }
