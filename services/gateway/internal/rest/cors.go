package rest

import (
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/rs/cors"
)

// withCORS lets web pages of the given origins call next from browsers; no others, and without any it is next itself.
func withCORS(origins []string, next http.Handler) http.Handler {
	if len(origins) == 0 {
		return next
	}
	const preflightSeconds = 600
	return cors.New(cors.Options{
		AllowedOrigins: origins,
		AllowedMethods: []string{http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodDelete},
		AllowedHeaders: []string{"Authorization", "Content-Type"},
		ExposedHeaders: []string{"Retry-After"},
		MaxAge:         preflightSeconds,
	}).Handler(next)
}

// ValidateOrigins returns an error that names each origin that cannot be allowed. There is no wildcard: calls carry credentials.
func ValidateOrigins(origins []string) error {
	var bad []error
	for _, origin := range origins {
		u, err := url.Parse(origin)
		if err != nil || (u.Scheme != "https" && u.Scheme != "http") || u.Host == "" || u.Scheme+"://"+u.Host != origin || strings.Contains(origin, "*") || strings.ToLower(origin) != origin {
			bad = append(bad, fmt.Errorf("cors.allowed_origins (BERTH_CORS_ALLOWED_ORIGINS): %q is no origin; write it as browsers do, in lower case, without path and wildcard: https://tools.example.com", origin))
		}
	}
	return errors.Join(bad...)
}
