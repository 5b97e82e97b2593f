package wsserver

import (
	"google.golang.org/protobuf/types/known/durationpb"

	eventv1 "github.com/berth-dev/berth/pkg/gen/berth/event/v1"
	"github.com/berth-dev/berth/pkg/rpc"
	linkv1 "github.com/berth-dev/berth/sdk/go/gen/berth/link/v1"
)

func responseFrame(r *linkv1.Response) *linkv1.Frame {
	return &linkv1.Frame{Kind: &linkv1.Frame_Response{Response: r}}
}

func failureFrame(id int64, err error) *linkv1.Frame {
	return responseFrame(&linkv1.Response{Id: id, Outcome: &linkv1.Response_Error{Error: linkError(err)}})
}

func notificationFrame(d *eventv1.Delivery) *linkv1.Frame {
	return &linkv1.Frame{Kind: &linkv1.Frame_Notification{Notification: &linkv1.Notification{
		InstanceId: d.GetInstanceId(), Offset: d.GetOffset(), Previous: d.GetPrevious(), Event: d.GetEvent(),
	}}}
}

func assignmentFrame(instanceID string) *linkv1.Frame {
	return &linkv1.Frame{Kind: &linkv1.Frame_Assignment{Assignment: &linkv1.Assignment{InstanceId: instanceID}}}
}

func goodbyeFrame(code linkv1.CloseCode, message string) *linkv1.Frame {
	return &linkv1.Frame{Kind: &linkv1.Frame_Goodbye{Goodbye: &linkv1.Goodbye{Code: code, Reconnect: reconnect(code), Message: message}}}
}

// linkError turns an error into what a game server may see of it.
func linkError(err error) *linkv1.Error {
	e := rpc.Public(err)
	out := &linkv1.Error{Code: int32(e.Reason.Kind()), Reason: string(e.Reason), Message: e.Message}
	if e.RetryAfter > 0 {
		out.RetryAfter = durationpb.New(e.RetryAfter)
	}
	return out
}
