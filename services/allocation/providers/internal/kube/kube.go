package kube

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/berth-dev/berth/services/allocation/providers/internal/hostapi"
)

// Host is what Kubernetes is called in messages.
const Host = "Kubernetes"

// Client calls an API server. It is safe for concurrent use.
type Client struct{ api *hostapi.Client }

// New returns a Client. block is that of the provider's settings, which errors name. Nothing is sent before the first call.
func New(block string, cfg Config) (*Client, error) {
	cfg, err := cfg.complete()
	if err == nil {
		err = cfg.check()
	}
	if err != nil {
		return nil, fmt.Errorf("%s.%w", block, err)
	}
	conf, err := cfg.tls()
	if err != nil {
		return nil, fmt.Errorf("%s.%w", block, err)
	}
	api, err := hostapi.New(hostapi.Config{Host: Host, URL: cfg.URL, TLS: conf, Explain: explain, Authorize: func(_ context.Context, r *http.Request) error {
		if cfg.TokenFile == "" {
			return nil
		}
		token, err := cfg.TokenFile.Use(block + ".token_file")
		r.Header.Set("Authorization", "Bearer "+token)
		return err
	}})
	if err != nil {
		return nil, fmt.Errorf("%s.url: %w", block, err)
	}
	return &Client{api: api}, nil
}

// Do makes a call. See Exists, Replaced and Unserved for refusals that say more than their reason.
func (c *Client) Do(ctx context.Context, call hostapi.Call) error { return c.api.Do(ctx, call) }

// Close ends idle connections. Call it when nothing calls the Client any more.
func (c *Client) Close() { c.api.Close() }

// Meta is what every object has.
type Meta struct {
	Name            string            `json:"name,omitempty"`
	Namespace       string            `json:"namespace,omitempty"`
	UID             string            `json:"uid,omitempty"`
	Version         string            `json:"resourceVersion,omitempty"` // another one after each change
	Labels          map[string]string `json:"labels,omitempty"`
	Annotations     map[string]string `json:"annotations,omitempty"`
	OwnerReferences []Owner           `json:"ownerReferences,omitempty"`
	Created         *time.Time        `json:"creationTimestamp,omitempty"`
	Deleted         *time.Time        `json:"deletionTimestamp,omitempty"` // when the object is to be gone; nil: nobody deleted it
}

// Owner is an object without which another one is deleted, too.
type Owner struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	UID        string `json:"uid"`
}

// ListMeta is what every list has.
type ListMeta struct {
	Continue string `json:"continue,omitempty"` // asks for the next page; empty on the last
}

// DeleteOptions says what is deleted.
type DeleteOptions struct {
	APIVersion         string        `json:"apiVersion"`
	Kind               string        `json:"kind"`
	GracePeriodSeconds *int64        `json:"gracePeriodSeconds,omitempty"` // nil: the object's own
	Preconditions      Preconditions `json:"preconditions"`
}

// Preconditions name the object itself, and not one of the same name that came after it.
type Preconditions struct {
	UID     string `json:"uid"`
	Version string `json:"resourceVersion,omitempty"` // the object as it was seen; empty: as it is
}

// Delete returns options to delete the object of that UID.
func Delete(uid string, grace *int64) DeleteOptions {
	return DeleteOptions{APIVersion: "v1", Kind: "DeleteOptions", GracePeriodSeconds: grace, Preconditions: Preconditions{UID: uid}}
}
