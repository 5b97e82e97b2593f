package rpc_test

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/structpb"

	"github.com/berth-dev/berth/pkg/auth"
	"github.com/berth-dev/berth/pkg/errs"
	"github.com/berth-dev/berth/pkg/rpc"
	instancev1 "github.com/berth-dev/berth/sdk/go/gen/berth/instance/v1"
	typev1 "github.com/berth-dev/berth/sdk/go/gen/berth/type/v1"
)

// nested returns objects, or arrays in an object, that are so many levels deep.
func nested(depth int, arrays bool) *structpb.Struct {
	v := structpb.NewNumberValue(1)
	for range depth - 1 {
		if arrays {
			v = structpb.NewListValue(&structpb.ListValue{Values: []*structpb.Value{structpb.NewNullValue(), v}})
		} else {
			v = structpb.NewStructValue(&structpb.Struct{Fields: map[string]*structpb.Value{"a": v}})
		}
	}
	return &structpb.Struct{Fields: map[string]*structpb.Value{"a": v, "b": structpb.NewStringValue("x")}}
}

func json(s *structpb.Struct) *typev1.Data { return &typev1.Data{Kind: &typev1.Data_Json{Json: s}} }

// Settings that were 3,333 deep were accepted and stored, and from then on neither the instance nor a list with it could be read, nor could its server
// link: what decoders allow around the data was used up by the data.
func TestWhatIsTooDeepToBeReadAgainIsRefused(t *testing.T) {
	srv, client, ctx := serve(t, &service{}, slog.New(slog.DiscardHandler))
	create := func(s *structpb.Struct, place func(*instancev1.CreateGameInstanceRequest, *structpb.Struct)) *instancev1.CreateGameInstanceRequest {
		req := &instancev1.CreateGameInstanceRequest{Placement: &instancev1.Placement{Build: "b"}, Players: []*instancev1.Player{{Id: "ann"}, {Id: "bob"}}}
		place(req, s)
		return req
	}
	ways := map[string]func(*instancev1.CreateGameInstanceRequest) error{
		"gRPC": func(req *instancev1.CreateGameInstanceRequest) error {
			_, err := client.CreateGameInstance(ctx, req)
			return rpc.FromStatus(err)
		},
		"in process": func(req *instancev1.CreateGameInstanceRequest) error {
			raw, err := proto.Marshal(req)
			if err != nil {
				t.Fatal(err)
			}
			_, err = srv.Call(context.Background(), auth.Principal{Role: auth.RoleAdmin}, &instancev1.GameInstanceService_ServiceDesc, &service{}, "CreateGameInstance",
				func(m proto.Message) error { return proto.Unmarshal(raw, m) })
			return err
		},
	}
	for field, place := range map[string]func(*instancev1.CreateGameInstanceRequest, *structpb.Struct){
		"settings":             func(r *instancev1.CreateGameInstanceRequest, s *structpb.Struct) { r.Settings = s },
		"game_data.json":       func(r *instancev1.CreateGameInstanceRequest, s *structpb.Struct) { r.GameData = json(s) },
		"players[1].data.json": func(r *instancev1.CreateGameInstanceRequest, s *structpb.Struct) { r.Players[1].Data = json(s) },
	} {
		for way, call := range ways {
			for _, arrays := range []bool{false, true} {
				t.Run(field+" over "+way, func(t *testing.T) {
					if err := call(create(nested(64, arrays), place)); err != nil {
						t.Errorf("64 deep: %v", err)
					}
					var e *errs.Error
					if err := call(create(nested(65, arrays), place)); !errors.As(err, &e) || e.Reason != errs.ValidationFailed || !strings.HasPrefix(e.Message, field+": ") {
						t.Errorf("65 deep: %v", err)
					}
				})
			}
		}
	}
	settings := func(r *instancev1.CreateGameInstanceRequest, s *structpb.Struct) { r.Settings = s }
	for way, call := range ways {
		if err := call(create(nested(3300, true), settings)); !errs.Is(err, errs.ValidationFailed) || !strings.Contains(err.Error(), "settings: ") {
			t.Errorf("3300 deep over %s: %v", way, err)
		}
		// No decoder comes as far as to the field's name.
		if err := call(create(nested(6000, true), settings)); !errs.Is(err, errs.ValidationFailed) || !strings.Contains(err.Error(), "at most 64 deep") {
			t.Errorf("6000 deep over %s: %v", way, err)
		}
	}
}
