package gameserver

import (
	"log/slog"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

// Option changes how Connect and Open link.
type Option func(*options)

type options struct {
	bootstrap *bootstrap.Document
	log       *slog.Logger
	endpoints []*typev1.Endpoint
	version   string
	queue     QueuePolicy
}

// WithBootstrap uses this document instead of looking for one.
func WithBootstrap(doc *bootstrap.Document) Option { return func(o *options) { o.bootstrap = doc } }

// WithLogger logs what happens to the link. No secret is ever logged. The default logs nothing.
func WithLogger(log *slog.Logger) Option { return func(o *options) { o.log = log } }

// WithEndpoints tells Berth on which addresses players reach this server, where it knows better than its provider or registration. They
// hold for each of its instances; Host.Create can name others for the one that it makes.
func WithEndpoints(endpoints ...*typev1.Endpoint) Option {
	return func(o *options) { o.endpoints = endpoints }
}

// WithVersion names the game server's software for logs and history, such as "arena 1.4.2".
func WithVersion(version string) Option { return func(o *options) { o.version = version } }
