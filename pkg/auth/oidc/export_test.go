package oidc

// ParseDiscovery returns where the keys of an issuer are.
func ParseDiscovery(raw []byte, issuer string) (string, error) { return parseDiscovery(raw, issuer) }

// ParseKeys returns the keys that can be used, by id.
func ParseKeys(raw []byte) (map[string][]any, error) {
	set, err := parseKeys(raw)
	all := make(map[string][]any, len(set))
	for id, keys := range set {
		for _, k := range keys {
			if k.unusable == nil {
				all[id] = append(all[id], k.public)
			}
		}
	}
	return all, err
}
