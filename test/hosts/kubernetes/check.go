package kubernetes

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

var (
	subdomain  = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*$`) // RFC 1123
	dnsLabel   = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	labelValue = regexp.MustCompile(`^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$`)
	portName   = regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
)

// Limits: a DNS subdomain has 253 characters, a DNS label and the value of a label 63, the name of a port 15, all annotations 256 KiB, a Secret 1 MiB (ran).
const (
	maxSubdomain   = 253
	maxLabel       = 63
	maxPortName    = 15
	maxAnnotations = 256 << 10
	maxSecret      = 1 << 20
)

// Members of a spec that this API server knows: those of the v1 API that servers can have use for.
var (
	podMembers = strings.Fields("activeDeadlineSeconds affinity automountServiceAccountToken containers dnsConfig dnsPolicy enableServiceLinks hostAliases hostNetwork hostname " +
		"imagePullSecrets initContainers nodeName nodeSelector priorityClassName restartPolicy runtimeClassName schedulerName securityContext serviceAccountName " +
		"shareProcessNamespace terminationGracePeriodSeconds tolerations topologySpreadConstraints volumes")
	containerMembers = strings.Fields("args command env envFrom image imagePullPolicy lifecycle livenessProbe name ports readinessProbe resources securityContext startupProbe " +
		"terminationMessagePath terminationMessagePolicy volumeMounts workingDir")
)

// decode reads what was sent: JSON of that kind, for the namespace of the path.
func decode(w http.ResponseWriter, r *http.Request, kind string) (object, bool) {
	if !strings.HasPrefix(r.Header.Get("Content-Type"), "application/json") {
		refuse(w, http.StatusUnsupportedMediaType, "UnsupportedMediaType", "the body of the request was in an unknown format", nil)
		return nil, false
	}
	raw, _ := io.ReadAll(r.Body)
	var o object
	if err := json.Unmarshal(raw, &o); err != nil || text(o, "kind") != kind || text(o, "apiVersion") != "v1" {
		refuse(w, http.StatusBadRequest, "BadRequest", fmt.Sprintf("%s in version \"v1\" cannot be handled as a %s: no kind %q is registered for it", text(o, "kind"), kind, text(o, "kind")), nil)
		return nil, false
	}
	if namespace := text(o, "metadata", "namespace"); namespace != "" && namespace != r.PathValue("namespace") {
		refuse(w, http.StatusBadRequest, "BadRequest", "the namespace of the provided object does not match the namespace sent on the request", nil)
		return nil, false
	}
	if kind == "Pod" {
		if strange := unknownMembers(o); len(strange) > 0 { // "Strict: fail the request with a BadRequest error"; else they are dropped with a warning
			if r.URL.Query().Get("fieldValidation") == "Strict" {
				refuse(w, http.StatusBadRequest, "BadRequest", "Pod in version \"v1\" cannot be handled as a Pod: strict decoding error: "+strings.Join(strange, ", "), nil)
				return nil, false
			}
			w.Header().Set("Warning", "299 - "+strange[0])
		}
	}
	return o, true
}

func unknownMembers(o object) []string {
	var out []string
	spec, _ := o["spec"].(object)
	for name := range spec {
		if !slices.Contains(podMembers, name) {
			out = append(out, fmt.Sprintf("unknown field \"spec.%s\"", name))
		}
	}
	for n, c := range list(o, "spec", "containers") {
		members, _ := c.(object)
		for name := range members {
			if !slices.Contains(containerMembers, name) {
				out = append(out, fmt.Sprintf("unknown field \"spec.containers[%d].%s\"", n, name))
			}
		}
	}
	return out
}

func list(o any, path ...string) []any {
	l, _ := at(o, path...).([]any)
	return l
}

func checkMeta(o object) []problem {
	var out []problem
	if name := text(o, "metadata", "name"); name == "" || len(name) > maxSubdomain || !subdomain.MatchString(name) {
		out = append(out, problem{"metadata.name", "FieldValueInvalid", fmt.Sprintf("Invalid value: %q: a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'", name)})
	}
	labels, _ := at(o, "metadata", "labels").(object)
	for _, v := range labels {
		if value, ok := v.(string); !ok || len(value) > maxLabel || !labelValue.MatchString(value) {
			out = append(out, problem{"metadata.labels", "FieldValueInvalid", fmt.Sprintf("Invalid value: %q: a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.'", v)})
		}
	}
	annotations, _ := at(o, "metadata", "annotations").(object)
	size := 0
	for k, v := range annotations {
		value, _ := v.(string)
		size += len(k) + len(value)
	}
	if size > maxAnnotations {
		out = append(out, problem{"metadata.annotations", "FieldValueTooLong", "Too long: may not be more than 262144 bytes"})
	}
	for n, owner := range list(o, "metadata", "ownerReferences") {
		for _, member := range []string{"apiVersion", "kind", "name", "uid"} {
			if text(owner, member) == "" {
				out = append(out, problem{fmt.Sprintf("metadata.ownerReferences[%d].%s", n, member), "FieldValueInvalid", "Invalid value: \"\": must not be empty"})
			}
		}
	}
	return out
}

// checkPod is what validation says of the members that servers have most.
func checkPod(o object) []problem {
	out := checkMeta(o)
	containers := list(o, "spec", "containers")
	if len(containers) == 0 {
		out = append(out, problem{"spec.containers", "FieldValueRequired", "Required value"})
	}
	if policy := text(o, "spec", "restartPolicy"); policy != "" && !slices.Contains([]string{"Always", "OnFailure", "Never"}, policy) {
		out = append(out, problem{"spec.restartPolicy", "FieldValueNotSupported", fmt.Sprintf("Unsupported value: %q: supported values: \"Always\", \"OnFailure\", \"Never\"", policy)})
	}
	for n, c := range containers {
		field := fmt.Sprintf("spec.containers[%d]", n)
		if name := text(c, "name"); name == "" || len(name) > maxLabel || !dnsLabel.MatchString(name) {
			out = append(out, problem{field + ".name", "FieldValueInvalid", fmt.Sprintf("Invalid value: %q", name)})
		}
		if text(c, "image") == "" {
			out = append(out, problem{field + ".image", "FieldValueRequired", "Required value"})
		}
		out = append(out, checkPorts(c, field, at(o, "spec", "hostNetwork") == true)...)
	}
	return out
}

func checkPorts(c any, field string, hostNetwork bool) []problem {
	var out []problem
	for n, p := range list(c, "ports") {
		field := fmt.Sprintf("%s.ports[%d]", field, n)
		port, _ := at(p, "containerPort").(float64)
		host, _ := at(p, "hostPort").(float64)
		if port < 1 || port > 65535 {
			out = append(out, problem{field + ".containerPort", "FieldValueInvalid", fmt.Sprintf("Invalid value: %v: must be between 1 and 65535, inclusive", port)})
		}
		if host < 0 || host > 65535 || hostNetwork && host != 0 && host != port {
			out = append(out, problem{field + ".hostPort", "FieldValueInvalid", fmt.Sprintf("Invalid value: %v", host)})
		}
		if name := text(p, "name"); name != "" && (len(name) > maxPortName || !portName.MatchString(name)) {
			out = append(out, problem{field + ".name", "FieldValueInvalid", fmt.Sprintf("Invalid value: %q: must be no more than 15 characters", name)})
		}
		if protocol := text(p, "protocol"); protocol != "" && !slices.Contains([]string{"TCP", "UDP", "SCTP"}, protocol) {
			out = append(out, problem{field + ".protocol", "FieldValueNotSupported", fmt.Sprintf("Unsupported value: %q: supported values: \"SCTP\", \"TCP\", \"UDP\"", protocol)})
		}
	}
	return out
}

func checkSecret(o object) []problem {
	out, size := checkMeta(o), 0
	data, _ := o["data"].(object)
	for key, v := range data {
		encoded, _ := v.(string)
		raw, err := base64.StdEncoding.DecodeString(encoded)
		if err != nil {
			out = append(out, problem{"data[" + key + "]", "FieldValueInvalid", "Invalid value: illegal base64 data"})
		}
		size += len(raw)
	}
	if size > maxSecret {
		out = append(out, problem{"data", "FieldValueTooLong", "Too long: may not be more than 1048576 bytes"})
	}
	return out
}

// defaults are those of the API that a reader can see.
func defaults(o object) {
	spec, _ := o["spec"].(object)
	if spec["terminationGracePeriodSeconds"] == nil {
		spec["terminationGracePeriodSeconds"] = float64(30)
	}
	if spec["restartPolicy"] == nil {
		spec["restartPolicy"] = "Always"
	}
	for _, c := range list(o, "spec", "containers") {
		for _, one := range list(c, "ports") {
			p, _ := one.(object)
			if p["protocol"] == nil {
				p["protocol"] = "TCP"
			}
			if spec["hostNetwork"] == true && p["hostPort"] == nil {
				p["hostPort"] = p["containerPort"]
			}
		}
	}
}
