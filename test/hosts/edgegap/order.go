package edgegap

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// Limits.
const (
	maxTag   = 40   // of a tag's name ("minLength 1, maxLength 40")
	maxValue = 4096 // of a variable ("up to 4 KB", of an application version's variables; that it holds for a deployment's too is an assumption)
)

// order is a DeploymentCreate ("required: application, users, version").
type order struct {
	Application *string `json:"application"`
	Version     *string `json:"version"`
	Cached      *bool   `json:"require_cached_locations"`
	Users       []user  `json:"users"`
	Variables   []struct {
		Key      *string `json:"key"`
		Value    *string `json:"value"`
		IsHidden *bool   `json:"is_hidden"`
	} `json:"environment_variables"`
	Tags                []string `json:"tags"`
	WebhookOnReady      *webhook `json:"webhook_on_ready"`
	WebhookOnError      *webhook `json:"webhook_on_error"`
	WebhookOnTerminated *webhook `json:"webhook_on_terminated"`
}

type webhook struct {
	URL string `json:"url"`
}

// user is where somebody plays.
type user struct {
	Type string `json:"user_type"`
	Data *struct {
		IP        *string  `json:"ip_address"`
		Latitude  *float64 `json:"latitude"`
		Longitude *float64 `json:"longitude"`
	} `json:"user_data"`
}

func (o order) variable(key string) string {
	for _, v := range o.Variables {
		if *v.Key == key {
			return *v.Value
		}
	}
	return ""
}

// order reads a request for a server, or refuses it. That unknown members are refused is an assumption, which keeps the client to what is documented.
func (a *api) order(w http.ResponseWriter, r *http.Request) (o order, ok bool) {
	d := json.NewDecoder(r.Body)
	d.DisallowUnknownFields()
	err := d.Decode(&o)
	if err == nil {
		err = a.check(o)
	}
	if err != nil || !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
		answer(w, http.StatusBadRequest, map[string]any{"message": fmt.Sprintf("Bad request: %v", err), "details": map[string]any{}})
		return o, false
	}
	return o, true
}

func (a *api) check(o order) error {
	switch {
	case o.Application == nil || o.Version == nil:
		return fmt.Errorf("application and version are required")
	case !slices.Contains(a.cfg.Versions[*o.Application], *o.Version): // "400: Invalid Application or Application Version. No deployment has been created"
		return fmt.Errorf("application %s has no active version %s", *o.Application, *o.Version)
	case len(o.Users) == 0: // "minItems: 1"
		return fmt.Errorf("users: at least one is required")
	}
	for _, u := range o.Users {
		if err := u.check(); err != nil {
			return err
		}
	}
	for _, v := range o.Variables { // "required: is_hidden, key, value"
		if v.Key == nil || v.Value == nil || v.IsHidden == nil || len(*v.Value) > maxValue {
			return fmt.Errorf("environment_variables: key, value of up to 4 KB and is_hidden are required")
		}
	}
	for _, tag := range o.Tags {
		if tag == "" || len(tag) > maxTag {
			return fmt.Errorf("tags: %q has not 1 to %d characters", tag, maxTag)
		}
	}
	return nil
}

// check wants what the examples of user_data have. That other types are refused is an assumption.
func (u user) check() error {
	switch {
	case u.Data == nil:
	case u.Type == "ip_address" && u.Data.IP != nil:
		return nil
	case u.Type == "geo_coordinates" && u.Data.Latitude != nil && u.Data.Longitude != nil:
		if lat, lon := *u.Data.Latitude, *u.Data.Longitude; lat >= -90 && lat <= 90 && lon >= -180 && lon <= 180 {
			return nil
		}
	}
	return fmt.Errorf("users: %q needs its user_data", u.Type)
}
