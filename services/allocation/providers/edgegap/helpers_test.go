package edgegap_test

import (
	"encoding/json"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/berth-dev/berth/services/allocation/providers/edgegap"
)

// call calls the host's API as the organization.
func call(t testing.TB, method, address, body string, into any) int {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, address, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "token "+token)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer http.DefaultClient.CloseIdleConnections()
	defer resp.Body.Close()
	if into != nil {
		if err := json.NewDecoder(resp.Body).Decode(into); err != nil {
			t.Fatal(err)
		}
	}
	return resp.StatusCode
}

type config = edgegap.Config

// seen is a deployment at the host.
type seen struct {
	ID     string   `json:"request_id"`
	Status string   `json:"current_status"`
	Tags   []string `json:"tags"`
}

// active returns the deployments at the host that have not ended, the oldest first; with a tag, if one is named.
func active(t testing.TB, cfg edgegap.Config, tag string) (all []seen) {
	t.Helper()
	list := func(page int) (found []seen, next bool) {
		var d struct {
			Data       []seen `json:"data"`
			Pagination struct {
				HasNext bool `json:"has_next"`
			} `json:"pagination"`
		}
		query := url.Values{"query": {`{"order_by": [{"field": "created_at", "order": "asc"}]}`}, "page": {strconv.Itoa(page)}}
		if status := call(t, http.MethodGet, cfg.URL+"/v1/deployments?"+query.Encode(), "", &d); status != http.StatusOK {
			t.Fatalf("list: %d", status)
		}
		return d.Data, d.Pagination.HasNext
	}
	list(1) // a list does not have what is new
	for page, next := 1, true; next; page++ {
		var found []seen
		found, next = list(page)
		for _, one := range found {
			call(t, http.MethodGet, cfg.URL+"/v1/status/"+one.ID, "", &one)
			if !strings.HasSuffix(one.Status, "TERMINATED") && (tag == "" || slices.Contains(one.Tags, tag)) {
				all = append(all, one)
			}
		}
	}
	return all
}
