package api

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"time"

	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"

	"github.com/berth-dev/berth/pkg/rpc"
)

// patience bounds one call.
const patience = time.Minute

// call is a case with everything filled in.
type call struct {
	method  protoreflect.MethodDescriptor
	request map[string]any
	// credentials are headers and their values, by turns.
	credentials []string
	// wire is appended to the encoded request; body and query take the place of what REST would send.
	wire, body *string
	query      string
	// answers is after how many messages of a stream to hang up; ends says to wait for its end.
	answers int
	ends    bool
}

// outcome is what a call was answered: messages as JSON, or a refusal.
type outcome struct {
	messages []any
	refused  *refusal
}

type refusal struct {
	code            codes.Code
	http            int // 0 over gRPC
	reason, message string
}

func (r *refusal) String() string {
	return fmt.Sprintf("%s %s %d: %.300s", r.code, r.reason, r.http, r.message)
}

// way is a way to call the API.
type way func(call) (outcome, error)

// asBytes sends and receives messages as the bytes that they are.
type asBytes struct{}

func (asBytes) Name() string { return "proto" }

func (asBytes) Marshal(v any) ([]byte, error) {
	b, ok := v.([]byte)
	if !ok {
		return nil, fmt.Errorf("%T is not bytes", v)
	}
	return b, nil
}

func (asBytes) Unmarshal(data []byte, v any) error {
	b, ok := v.(*[]byte)
	if !ok {
		return fmt.Errorf("%T is not bytes", v)
	}
	*b = bytes.Clone(data)
	return nil
}

// newMessage returns an empty message of a type.
func newMessage(d protoreflect.MessageDescriptor) (proto.Message, error) {
	mt, err := protoregistry.GlobalTypes.FindMessageByName(d.FullName())
	if err != nil {
		return nil, err
	}
	return mt.New().Interface(), nil
}

// message reads a message of a type from an object.
func message(d protoreflect.MessageDescriptor, object any) (proto.Message, error) {
	raw, err := json.Marshal(object)
	if err != nil {
		return nil, err
	}
	m, err := newMessage(d)
	if err != nil {
		return nil, err
	}
	return m, protojson.Unmarshal(raw, m)
}

// grpcWay calls over gRPC.
func (s *stack) grpcWay(c call) (outcome, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, c.credentials...)
	m, err := message(c.method.Input(), c.request)
	if err != nil {
		return outcome{}, fmt.Errorf("request: %w", err)
	}
	raw, err := proto.Marshal(m)
	if err != nil {
		return outcome{}, err
	}
	if c.wire != nil {
		raw = append(raw, *c.wire...)
	}
	full := fmt.Sprintf("/%s/%s", c.method.Parent().FullName(), c.method.Name())
	program, _ := servedBy(c.method)
	stream, err := s.conns[program].NewStream(ctx, &grpc.StreamDesc{ServerStreams: true}, full, grpc.ForceCodec(asBytes{}), grpc.MaxCallSendMsgSize(64<<20), grpc.MaxCallRecvMsgSize(64<<20))
	if err != nil {
		return refusedOverGRPC(err), nil
	}
	if err := stream.SendMsg(raw); err != nil && !errors.Is(err, io.EOF) { // after an io.EOF, RecvMsg tells why
		return refusedOverGRPC(err), nil
	}
	if err := stream.CloseSend(); err != nil {
		return outcome{}, err
	}
	var out outcome
	for c.ends || !c.method.IsStreamingServer() || len(out.messages) < c.answers {
		var raw []byte
		if err := stream.RecvMsg(&raw); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return refusedOverGRPC(err), nil
		}
		answer, err := newMessage(c.method.Output())
		if err != nil {
			return outcome{}, err
		}
		if err := proto.Unmarshal(raw, answer); err != nil {
			return outcome{}, err
		}
		text, err := protojson.Marshal(answer)
		if err != nil {
			return outcome{}, err
		}
		if err := out.add(text); err != nil {
			return outcome{}, err
		}
	}
	return out, nil
}

func (o *outcome) add(text []byte) error {
	var v any
	if err := json.Unmarshal(text, &v); err != nil {
		return fmt.Errorf("answer %.300s: %w", text, err)
	}
	o.messages = append(o.messages, v)
	return nil
}

func refusedOverGRPC(err error) outcome {
	st := status.Convert(err)
	r := &refusal{code: st.Code(), message: st.Message()}
	for _, d := range st.Details() {
		if info, ok := d.(*errdetails.ErrorInfo); ok && info.GetDomain() == rpc.Domain {
			r.reason = info.GetReason()
		}
	}
	return outcome{refused: r}
}

// restWay calls over REST, as the rpc's HTTP rule says.
func (s *stack) restWay(c call) (outcome, error) {
	ctx, cancel := context.WithTimeout(context.Background(), patience)
	defer cancel()
	method, target, body, err := restCall(c)
	if err != nil {
		return outcome{}, err
	}
	base := s.api
	if _, edge := servedBy(c.method); edge {
		base = s.edge
	}
	req, err := http.NewRequestWithContext(ctx, method, base+target, strings.NewReader(body))
	if err != nil {
		return outcome{}, err
	}
	for header := range slices.Chunk(c.credentials, 2) {
		req.Header.Set(header[0], header[1])
	}
	resp, err := s.http.Do(req)
	if err != nil {
		return outcome{}, err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode != http.StatusOK:
		raw, err := io.ReadAll(resp.Body)
		if err != nil {
			return outcome{}, err
		}
		return refusedOverREST(resp, raw)
	case c.method.IsStreamingServer():
		return lines(c, resp)
	default:
		raw, err := io.ReadAll(resp.Body)
		if err != nil {
			return outcome{}, err
		}
		var out outcome
		return out, out.add(raw)
	}
}

// lines reads the lines of a stream.
func lines(c call, resp *http.Response) (outcome, error) {
	var out outcome
	scan := bufio.NewScanner(resp.Body)
	scan.Buffer(nil, 16<<20)
	for (c.ends || len(out.messages) < c.answers) && scan.Scan() {
		var line struct{ Result, Error json.RawMessage }
		if err := json.Unmarshal(scan.Bytes(), &line); err != nil {
			return outcome{}, fmt.Errorf("line %.300s: %w", scan.Bytes(), err)
		}
		if line.Error != nil {
			return refusedOverREST(resp, line.Error)
		}
		if err := out.add(line.Result); err != nil {
			return outcome{}, err
		}
	}
	return out, scan.Err()
}

func refusedOverREST(resp *http.Response, raw []byte) (outcome, error) {
	var e struct {
		Code    codes.Code
		Message string
		Details []struct {
			Type           string `json:"@type"`
			Domain, Reason string
		}
	}
	if err := json.Unmarshal(raw, &e); err != nil {
		return outcome{}, fmt.Errorf("%s with the body %.300s: %w", resp.Status, raw, err)
	}
	r := &refusal{code: e.Code, http: resp.StatusCode, message: e.Message}
	for _, d := range e.Details {
		if d.Domain == rpc.Domain && d.Type == "type.googleapis.com/google.rpc.ErrorInfo" {
			r.reason = d.Reason
		}
	}
	return outcome{refused: r}, nil
}

var variable = regexp.MustCompile(`\{([a-z_]+)\}`)

// restCall puts a request into path, query and body.
func restCall(c call) (method, target, body string, err error) {
	rule := httpRule(c.method)
	if rule == nil {
		return "", "", "", fmt.Errorf("%s has no HTTP rule", c.method.Name())
	}
	left := map[string]any{}
	for key, v := range c.request {
		left[key] = v
	}
	take := func(template string) string {
		return variable.ReplaceAllStringFunc(template, func(name string) string {
			field := c.method.Input().Fields().ByName(protoreflect.Name(name[1 : len(name)-1])).JSONName()
			v := left[field]
			delete(left, field)
			if v == nil {
				v = ""
			}
			return url.PathEscape(fmt.Sprint(v))
		})
	}
	get := rule.GetGet() != ""
	target = take(rule.GetGet() + rule.GetPost()) // one of them is empty
	query := c.query
	if get && query == "" {
		values := url.Values{}
		parameters(values, "", left)
		query = values.Encode()
	}
	if query != "" {
		target += "?" + query
	}
	switch {
	case get:
		return http.MethodGet, target, "", nil
	case c.body != nil:
		return http.MethodPost, target, *c.body, nil
	default:
		raw, err := json.Marshal(left)
		return http.MethodPost, target, string(raw), err
	}
}

// parameters writes an object as query parameters.
func parameters(query url.Values, name string, v any) {
	switch v := v.(type) {
	case map[string]any:
		for key, inner := range v {
			switch {
			case name == "":
				parameters(query, key, inner)
			case strings.HasSuffix(name, "labels"):
				parameters(query, name+"["+key+"]", inner)
			default:
				parameters(query, name+"."+key, inner)
			}
		}
	case []any:
		for _, item := range v {
			parameters(query, name, item)
		}
	default:
		query.Add(name, fmt.Sprint(v))
	}
}
