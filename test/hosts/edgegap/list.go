package edgegap

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
)

const (
	// lag is how many lists do not have a deployment yet that was just made, and still have one that just ended: the list is eventually consistent. An assumption.
	lag = 1
	// maxPage is how many a page has at most, whatever is asked for. An assumption; so few, so that callers have to turn pages.
	maxPage = 2
)

// query is the parameter of that name.
type query struct {
	Filters []filter `json:"filters"`
	OrderBy []struct {
		Field string `json:"field"`
		Order string `json:"order"`
	} `json:"order_by"`
}

// filter: "eq and neq on every field; in and nin with an array value on request_id, tags, application, version; at most one filter per field".
type filter struct {
	Field    string          `json:"field"`
	Operator string          `json:"operator"`
	Value    json.RawMessage `json:"value"`
}

// list has the active deployments.
func (a *api) list(w http.ResponseWriter, r *http.Request) {
	found, err := a.search(r.URL.Query().Get("query"))
	page, errPage := positive(r.URL.Query().Get("page"), 1)
	limit, errLimit := positive(r.URL.Query().Get("limit"), maxPage)
	if err != nil || errPage != nil || errLimit != nil {
		refuse(w, http.StatusBadRequest, fmt.Sprintf("Bad query: %v %v %v", err, errPage, errLimit))
		return
	}
	limit = min(limit, maxPage)
	pages := max(1, (len(found)+limit-1)/limit)
	data := []any{}
	for _, d := range found[min(len(found), (page-1)*limit):min(len(found), page*limit)] {
		data = append(data, map[string]any{
			"request_id": d.id, "fqdn": host(d), "ready": d.word() == ready, "start_time": "2026-04-22 12:00:46.444265", "public_ip": "192.53.120.48", "ports": a.ports(d), "tags": d.tags,
		})
	}
	pagination := map[string]any{
		"number": page, "next_page_number": nil, "previous_page_number": nil, "paginator": map[string]any{"num_pages": pages}, "has_next": page < pages, "has_previous": page > 1,
	}
	if page < pages {
		pagination["next_page_number"] = page + 1
	}
	answer(w, http.StatusOK, map[string]any{"data": data, "total_count": len(found), "message": []string{}, "pagination": pagination})
}

func positive(text string, none int) (int, error) {
	if text == "" {
		return none, nil
	}
	n, err := strconv.Atoi(text)
	if err != nil || n < 1 { // "minimum: 1"
		return 0, fmt.Errorf("%q is less than 1", text)
	}
	return n, nil
}

func (a *api) search(text string) ([]*deployment, error) {
	var q query
	if text != "" {
		if err := json.Unmarshal([]byte(text), &q); err != nil {
			return nil, err
		}
	}
	if err := q.check(); err != nil {
		return nil, err
	}
	var found []*deployment
	for _, d := range a.all {
		if d.listed() && q.matches(d) {
			found = append(found, d)
		}
	}
	a.all = slices.DeleteFunc(a.all, func(d *deployment) bool { return d.hidden > lag })
	if len(q.OrderBy) == 0 || q.OrderBy[0].Order == "desc" { // that it is the newest first unless it is said, is an assumption
		slices.Reverse(found)
	}
	return found, nil
}

// listed reports whether a list has it, which is not the whole truth.
func (d *deployment) listed() bool {
	if d.shown++; d.shown <= lag {
		return false
	}
	if d.ended {
		d.hidden++
	}
	return d.hidden <= lag
}

// fields are those that can be filtered by here, of those that Edgegap has.
func (d *deployment) fields(name string) []string {
	switch name {
	case "tags":
		return d.tags
	case "request_id":
		return []string{d.id}
	case "application":
		return []string{d.app}
	case "version":
		return []string{d.version}
	default:
		return nil
	}
}

func (q query) check() error {
	used := map[string]bool{"": true}
	for _, f := range q.Filters {
		if used[f.Field] || !slices.Contains([]string{"tags", "request_id", "application", "version"}, f.Field) {
			return fmt.Errorf("filters: %s is unknown, or there twice", f.Field)
		}
		used[f.Field] = true
		if f.values() == nil {
			return fmt.Errorf("filters: operator %s of %s with %s is not one", f.Operator, f.Field, f.Value)
		}
	}
	for _, o := range q.OrderBy {
		if o.Field != "created_at" || o.Order != "asc" && o.Order != "desc" {
			return fmt.Errorf("order_by: %s %s", o.Field, o.Order)
		}
	}
	return nil
}

// values are those that it looks for; nil: it has none that can be.
func (f filter) values() (many []string) {
	var one string
	switch {
	case f.Operator == "eq" && json.Unmarshal(f.Value, &one) == nil:
		return []string{one}
	case f.Operator == "in" && json.Unmarshal(f.Value, &many) == nil:
		return many
	default:
		return nil
	}
}

func (q query) matches(d *deployment) bool {
	for _, f := range q.Filters {
		values := f.values()
		if !slices.ContainsFunc(d.fields(f.Field), func(v string) bool { return slices.Contains(values, v) }) {
			return false
		}
	}
	return true
}
