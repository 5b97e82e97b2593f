package providers_test

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/berth-dev/berth/services/allocation/providers"
)

func TestOpenRefusesWhatIsNotBuilt(t *testing.T) {
	open := func(kind string) error {
		_, err := providers.Open(t.Context(), providers.Config{Name: "p", Kind: kind}, providers.Deps{Log: slog.New(slog.DiscardHandler)})
		return err
	}
	if err := open("warp"); err == nil || !strings.Contains(err.Error(), "process, attach, remote, static, hathora, edgegap, playfab, multiplay, gamelift, kubernetes, agones") {
		t.Errorf("an unknown kind: %v", err)
	}
	if err := open("static"); err == nil || !strings.Contains(err.Error(), "static.pool") {
		t.Errorf("static without a pool: %v", err)
	}
	if err := open("hathora"); err == nil || !strings.Contains(err.Error(), "hathora.token_file") {
		t.Errorf("hathora without a token: %v", err)
	}
	if err := open("edgegap"); err == nil || !strings.Contains(err.Error(), "edgegap.token_file") {
		t.Errorf("edgegap without a token: %v", err)
	}
	if err := open("playfab"); err == nil || !strings.Contains(err.Error(), "playfab.title_id") {
		t.Errorf("playfab without a title: %v", err)
	}
	if err := open("multiplay"); err == nil || !strings.Contains(err.Error(), "multiplay.api_key_file") {
		t.Errorf("multiplay without a key: %v", err)
	}
	if err := open("gamelift"); err == nil || !strings.Contains(err.Error(), "gamelift.builds") {
		t.Errorf("gamelift without builds: %v", err)
	}
	if err := open("kubernetes"); err == nil || !strings.Contains(err.Error(), "kubernetes.builds") {
		t.Errorf("kubernetes without builds: %v", err)
	}
	if err := open("agones"); err == nil || !strings.Contains(err.Error(), "agones.builds") {
		t.Errorf("agones without builds: %v", err)
	}
	if err := open("remote"); err == nil || !strings.Contains(err.Error(), "remote.address") {
		t.Errorf("remote without an address: %v", err)
	}
	if err := open("process"); err == nil || !strings.Contains(err.Error(), "state_dir") {
		t.Errorf("process without a state_dir: %v", err)
	}
}
