package kube

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/berth-dev/berth/sdk/go/provider"
)

// ParsePage reads the token of a page of objects in several namespaces: which of them it is about, and where its list goes on.
func ParsePage(token string, namespaces int) (n int, next string, err error) {
	if token == "" {
		return 0, "", nil
	}
	index, next, ok := strings.Cut(token, "/")
	n, err = strconv.Atoi(index)
	if !ok || err != nil || n < 0 || n >= namespaces {
		return 0, "", provider.Failure(provider.Invalid, "page_token: is none of a list of this provider")
	}
	return n, next, nil
}

// NextPage is the token of the page after one of the n-th of the namespaces; "" on the last.
func NextPage(n, namespaces int, list ListMeta) string {
	switch {
	case list.Continue != "":
		return fmt.Sprintf("%d/%s", n, list.Continue)
	case n+1 < namespaces:
		return fmt.Sprintf("%d/", n+1)
	default:
		return ""
	}
}
