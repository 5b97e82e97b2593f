//go:build linux

package process_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/berth-dev/berth/sdk/go/bootstrap"
	providerv1 "github.com/berth-dev/berth/sdk/go/gen/berth/provider/v1"
	"github.com/berth-dev/berth/sdk/go/provider/providertest"
	"github.com/berth-dev/berth/services/allocation/providers/process"
)

// host looks at the processes. Nothing else stands behind the provider that could misbehave, but for a limit.
type host struct {
	providertest.Unsupported
	p *process.Provider
}

func (h host) Bootstrap(ctx context.Context, attempt string) ([]byte, error) {
	got, err := h.p.Get(ctx, &providerv1.GetRequest{AttemptId: attempt})
	if err != nil {
		return nil, err
	}
	var pid int
	if _, err := fmt.Sscanf(got.GetServer().GetExternalId(), "%d-", &pid); err != nil {
		return nil, err
	}
	environ, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid))
	if err != nil {
		return nil, err
	}
	for _, variable := range bytes.Split(environ, []byte{0}) {
		if document, ok := bytes.CutPrefix(variable, []byte(bootstrap.EnvDocument+"=")); ok {
			return document, nil
		}
	}
	return nil, errors.New("the process has no " + bootstrap.EnvDocument)
}

func TestConformance(t *testing.T) {
	p := open(t, config(t.TempDir(), discard()))
	providertest.Run(t, providertest.Config{Provider: p, Host: host{p: p}, Build: "serve"})
}
