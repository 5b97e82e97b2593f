package agones

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"

	"go.yaml.in/yaml/v3"
)

// Rights are what RBAC allows a service account. Who has no role that grants something may not do it.
type Rights struct {
	// User is the account, as an API server names it.
	User string
	// Rules are those of the roles that are bound to it.
	Rules []Rule
}

// Rule grants verbs on resources of API groups in one namespace.
type Rule struct {
	Namespace string   `yaml:"-"`
	Groups    []string `yaml:"apiGroups"`
	Resources []string `yaml:"resources"`
	Verbs     []string `yaml:"verbs"`
}

// Allow reports whether a role grants that.
func (r *Rights) Allow(namespace, verb, group, resource string) bool {
	return slices.ContainsFunc(r.Rules, func(rule Rule) bool {
		return rule.Namespace == namespace && slices.Contains(rule.Groups, group) && slices.Contains(rule.Resources, resource) && slices.Contains(rule.Verbs, verb)
	})
}

// manifest is what counts of an object in a file for kubectl.
type manifest struct {
	Kind string `yaml:"kind"`
	Meta struct {
		Name      string `yaml:"name"`
		Namespace string `yaml:"namespace"`
	} `yaml:"metadata"`
	Rules    []Rule `yaml:"rules"`
	RoleRef  ref    `yaml:"roleRef"`
	Subjects []ref  `yaml:"subjects"`
}

type ref struct {
	Kind      string `yaml:"kind"`
	Name      string `yaml:"name"`
	Namespace string `yaml:"namespace"`
}

// ReadRights returns what a file with Roles and RoleBindings grants the one ServiceAccount in it: a Role counts only where it is bound.
func ReadRights(path string) (*Rights, error) {
	all, err := manifests(path)
	if err != nil {
		return nil, err
	}
	at := slices.IndexFunc(all, func(m manifest) bool { return m.Kind == "ServiceAccount" })
	if at < 0 {
		return nil, fmt.Errorf("%s has no ServiceAccount", path)
	}
	account := ref{Kind: "ServiceAccount", Name: all[at].Meta.Name, Namespace: all[at].Meta.Namespace}
	rights := &Rights{User: "system:serviceaccount:" + account.Namespace + ":" + account.Name}
	for _, binding := range all {
		if binding.Kind != "RoleBinding" || !slices.Contains(binding.Subjects, account) {
			continue
		}
		for _, role := range all {
			if role.Kind != "Role" || binding.RoleRef.Kind != "Role" || role.Meta.Name != binding.RoleRef.Name || role.Meta.Namespace != binding.Meta.Namespace {
				continue
			}
			for _, rule := range role.Rules {
				rule.Namespace = role.Meta.Namespace
				rights.Rules = append(rights.Rules, rule)
			}
		}
	}
	return rights, nil
}

func manifests(path string) (all []manifest, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	for d := yaml.NewDecoder(file); ; {
		var one manifest
		if err := d.Decode(&one); errors.Is(err, io.EOF) {
			return all, nil
		} else if err != nil {
			return nil, err
		}
		all = append(all, one)
	}
}
