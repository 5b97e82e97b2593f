//go:build !linux

package process

import (
	"context"

	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/sdk/go/provider"
)

// Provider needs Linux.
type Provider struct{ provider.Provider }

// New refuses: the provider knows processes by /proc.
func New(context.Context, Config) (*Provider, error) {
	return nil, errs.New(errs.NotImplemented, "provider kind process: is built for Linux only; use kind attach and start the server by hand")
}

// Close does nothing.
func (*Provider) Close(context.Context) error { return nil }
