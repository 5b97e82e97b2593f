package multiplay

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// exchange is Unity's token exchange: Basic authentication with a service account's key, "scopes" as the body, and a JWT as the answer, with status 201.
func (a *api) exchange(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.calls.Exchange++
	id, secret, ok := r.BasicAuth()
	var in struct {
		Scopes *[]string `json:"scopes"`
	}
	switch {
	case !ok || id != a.cfg.KeyID || secret != a.cfg.KeySecret:
		refuse(w, http.StatusUnauthorized, "the service account's key is not accepted")
		return
	case r.URL.Query().Get("projectId") != a.cfg.Project || r.URL.Query().Get("environmentId") != a.cfg.Environment:
		refuse(w, http.StatusForbidden, "the service account has no access to this project and environment")
		return
	case json.NewDecoder(r.Body).Decode(&in) != nil || in.Scopes == nil:
		refuse(w, http.StatusBadRequest, "scopes: is required")
		return
	}
	now := time.Now()
	claims, _ := json.Marshal(map[string]any{"iat": now.Unix(), "exp": now.Add(a.cfg.TokenLife).Unix(), "jti": fmt.Sprint(a.calls.Exchange)}) // these have a JSON form
	token := encode(`{"alg":"RS256","typ":"JWT"}`) + "." + encode(string(claims)) + "." + encode("a signature that nobody checks here")
	a.tokens[token] = now.Add(a.cfg.TokenLife)
	answer(w, http.StatusCreated, map[string]string{"accessToken": token})
}

func encode(part string) string { return base64.RawURLEncoding.EncodeToString([]byte(part)) }
