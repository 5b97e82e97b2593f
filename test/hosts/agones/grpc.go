package agones

import (
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"
	"unicode/utf8"

	"google.golang.org/protobuf/encoding/protowire"
)

// The gRPC side of agones-allocator is written by hand here, over HTTP/2 and the wire format of protobuf: it shares neither a message nor a library of gRPC
// with who calls it. Numbers of fields are those of Agones' proto (src).

// grpcPath is that of allocation.AllocationService/Allocate (src).
const grpcPath = "/allocation.AllocationService/Allocate"

// Codes of gRPC.
const (
	codeOK               = 0
	codePermissionDenied = 7
	codeExhausted        = 8
	codeAborted          = 10
	codeUnimplemented    = 12
	codeInternal         = 13
	codeUnavailable      = 14
)

// maxMessage is the largest message that a server of grpc-go reads.
const maxMessage = 4 << 20

// isGRPC tells calls of the gRPC side, as the allocator does where both sides have one port (src).
func isGRPC(r *http.Request) bool {
	return r.ProtoMajor == 2 && strings.Contains(r.Header.Get("Content-Type"), "application/grpc")
}

// Say ends a call of the gRPC side with a status. Without an answer before it, all codes but 0 are refusals.
func Say(w http.ResponseWriter, code int, message string) {
	w.Header().Set("Content-Type", "application/grpc")
	w.Header().Set(http.TrailerPrefix+"Grpc-Status", strconv.Itoa(code))
	w.Header().Set(http.TrailerPrefix+"Grpc-Message", percent(message))
	w.WriteHeader(http.StatusOK)
}

// Answer answers a call of the gRPC side with a message.
func Answer(w http.ResponseWriter, message []byte) {
	Say(w, codeOK, "")
	head := make([]byte, 5)
	binary.BigEndian.PutUint32(head[1:], uint32(len(message)))
	_, _ = w.Write(append(head, message...))
}

// percent encodes what a grpc-message may not have as it is.
func percent(text string) string {
	var out strings.Builder
	for i := range len(text) {
		if c := text[i]; c < ' ' || c > '~' || c == '%' {
			fmt.Fprintf(&out, "%%%02X", c)
		} else {
			out.WriteByte(c)
		}
	}
	return out.String()
}

// call is a call of the gRPC side.
func (a *Agones) call(w http.ResponseWriter, r *http.Request) {
	if r.URL.Path != grpcPath {
		Say(w, codeUnimplemented, "unknown method "+r.URL.Path)
		return
	}
	message, code, wrong := messageOf(r.Body)
	if code != codeOK {
		Say(w, code, wrong)
		return
	}
	in, err := decode(message)
	if err != nil {
		Say(w, codeInternal, "grpc: error unmarshalling request: "+err.Error())
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	out := a.take(r.Context(), in.namespace, in.selectors, in.metadata)
	switch {
	case out.wrong != "": // a status of HTTP, which is no code of gRPC (ran)
		Say(w, http.StatusUnprocessableEntity, out.wrong)
	case out.state == "Contention":
		Say(w, codeAborted, tooMany)
	case out.server == nil:
		Say(w, codeExhausted, noneThere)
	default:
		Answer(w, out.server.message())
	}
}

// messageOf takes the one message out of a call's body.
func messageOf(body io.Reader) (message []byte, code int, wrong string) {
	raw, err := io.ReadAll(io.LimitReader(body, maxMessage+6))
	switch {
	case err != nil || len(raw) < 5:
		return nil, codeInternal, "grpc: unexpected end of the call"
	case raw[0] != 0:
		return nil, codeUnimplemented, "grpc: Decompressor is not installed for grpc-encoding"
	case binary.BigEndian.Uint32(raw[1:5]) > maxMessage:
		return nil, codeExhausted, fmt.Sprintf("grpc: received message larger than max (%d vs. %d)", binary.BigEndian.Uint32(raw[1:5]), maxMessage)
	case int(binary.BigEndian.Uint32(raw[1:5])) != len(raw)-5:
		return nil, codeInternal, "grpc: the length of a message and the call's are not the same"
	}
	return raw[5:], codeOK, ""
}

// asked is an AllocationRequest.
type asked struct {
	namespace string
	selectors []selector
	metadata  patch
}

func decode(message []byte) (in asked, err error) {
	err = each(message, func(field protowire.Number, value []byte) (err error) {
		switch field {
		case 1:
			in.namespace, err = text(value)
		case 7:
			in.metadata, err = decodePatch(value)
		case 8:
			var s selector
			if s.MatchLabels, err = decodeMap(value, 1); err == nil {
				in.selectors = append(in.selectors, s)
			}
		}
		return err
	})
	return in, err
}

func decodePatch(message []byte) (p patch, err error) {
	if p.Labels, err = decodeMap(message, 1); err == nil {
		p.Annotations, err = decodeMap(message, 2)
	}
	return p, err
}

// decodeMap returns the map<string, string> that a field of a message is.
func decodeMap(message []byte, number protowire.Number) (map[string]string, error) {
	all := make(map[string]string)
	err := each(message, func(field protowire.Number, entry []byte) error {
		if field != number {
			return nil
		}
		var pair [2]string
		err := each(entry, func(field protowire.Number, value []byte) (err error) {
			if field == 1 || field == 2 {
				pair[field-1], err = text(value)
			}
			return err
		})
		all[pair[0]] = pair[1]
		return err
	})
	return all, err
}

// each calls do with each field that has a length. Others are skipped, as unknown ones are.
func each(message []byte, do func(field protowire.Number, value []byte) error) error {
	for len(message) > 0 {
		field, kind, n := protowire.ConsumeTag(message)
		if n < 0 {
			return fmt.Errorf("proto: cannot parse invalid wire-format data: %w", protowire.ParseError(n))
		}
		message = message[n:]
		size := protowire.ConsumeFieldValue(field, kind, message)
		if size < 0 {
			return fmt.Errorf("proto: cannot parse invalid wire-format data: %w", protowire.ParseError(size))
		}
		if kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(message)
			if err := do(field, value); err != nil {
				return err
			}
		}
		message = message[size:]
	}
	return nil
}

func text(value []byte) (string, error) {
	if !utf8.Valid(value) {
		return "", fmt.Errorf("string field contains invalid UTF-8")
	}
	return string(value), nil
}

// message is the AllocationResponse that says a GameServer: its name, ports, address, node, source, and all of its metadata, the document too.
func (g *gameServer) message() []byte {
	out := putText(nil, 2, g.name)
	for n, name := range []string{"game", "query"} {
		one := protowire.AppendVarint(protowire.AppendTag(putText(nil, 1, name), 2, protowire.VarintType), uint64(g.port+1000*n))
		out = put(out, 3, one)
	}
	out = putText(putText(putText(out, 4, "198.51.100.7"), 5, "node-1"), 6, "local")
	return put(put(out, 7, putMap(putMap(nil, 1, g.labels), 2, g.annotations)), 8, putText(putText(nil, 1, "ExternalIP"), 2, "198.51.100.7"))
}

func put(to []byte, field protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(to, field, protowire.BytesType), value)
}

func putText(to []byte, field protowire.Number, value string) []byte {
	return put(to, field, []byte(value))
}

func putMap(to []byte, field protowire.Number, all map[string]string) []byte {
	for k, v := range all {
		to = put(to, field, putText(putText(nil, 1, k), 2, v))
	}
	return to
}
