package gamelift

import (
	"crypto/md5"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"time"
)

// QueuePath is the path of the queue's URL.
const QueuePath = "/" + account + "/berth-placements"

// Limits of SQS, from its API reference.
const (
	maxWait     = 20 // seconds, of WaitTimeSeconds
	maxMessages = 10
	visibility  = 30 * time.Second
)

type message struct {
	id, receipt, body string
	hidden            time.Time // until then
}

// queue is the part of SQS that a consumer needs: awsJson1_0.
type queue struct {
	key      string
	mu       sync.Mutex
	messages []*message
	n        int
	arrived  chan struct{} // closed by the next message
	served   int           // ReceiveMessage
}

func newQueue(key string) *queue { return &queue{key: key, arrived: make(chan struct{})} }

func (q *queue) send(body string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.n++
	q.messages = append(q.messages, &message{id: fmt.Sprintf("5fea7756-0ea4-451a-a703-%012d", q.n), body: body})
	close(q.arrived)
	q.arrived = make(chan struct{})
}

// Left returns how many events nobody has taken and deleted.
func (h *Host) Left() int {
	h.api.queue.mu.Lock()
	defer h.api.queue.mu.Unlock()
	return len(h.api.queue.messages)
}

func (q *queue) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if _, f := signed(r, q.key, "sqs"); f != nil {
		refuseJSON(w, f.code, f.message)
		return
	}
	var in struct {
		QueueURL            string `json:"QueueUrl"`
		MaxNumberOfMessages int
		WaitTimeSeconds     int
		Entries             []struct{ ID, ReceiptHandle string }
	}
	err := json.NewDecoder(r.Body).Decode(&in)
	switch {
	case err != nil || r.Header.Get("Content-Type") != "application/x-amz-json-1.0":
		refuseJSON(w, "SerializationException", "not JSON 1.0")
	case !strings.HasSuffix(in.QueueURL, QueuePath):
		refuseJSON(w, "com.amazonaws.sqs#QueueDoesNotExist", "The specified queue does not exist.")
	case r.Header.Get("X-Amz-Target") == "AmazonSQS.ReceiveMessage":
		if in.MaxNumberOfMessages < 0 || in.MaxNumberOfMessages > maxMessages || in.WaitTimeSeconds < 0 || in.WaitTimeSeconds > maxWait {
			refuseJSON(w, "InvalidParameterValue", "Value for parameter is invalid")
			return
		}
		q.receive(w, r, max(1, in.MaxNumberOfMessages), time.Duration(in.WaitTimeSeconds)*time.Second)
	case r.Header.Get("X-Amz-Target") == "AmazonSQS.DeleteMessageBatch":
		var done []map[string]string
		for _, e := range in.Entries {
			q.remove(e.ReceiptHandle)
			done = append(done, map[string]string{"Id": e.ID})
		}
		answerJSON(w, http.StatusOK, map[string]any{"Successful": done, "Failed": []any{}})
	default:
		refuseJSON(w, "com.amazonaws.sqs#UnsupportedOperation", "Unsupported operation")
	}
}

func refuseJSON(w http.ResponseWriter, kind, words string) {
	answerJSON(w, http.StatusBadRequest, map[string]string{"__type": kind, "message": words})
}

func answerJSON(w http.ResponseWriter, status int, body any) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body)
}

// receive waits for messages as a long poll does.
func (q *queue) receive(w http.ResponseWriter, r *http.Request, most int, wait time.Duration) {
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		found, arrived := q.take(most)
		if len(found) > 0 {
			answerJSON(w, http.StatusOK, map[string]any{"Messages": found})
			return
		}
		select {
		case <-arrived:
		case <-timer.C:
			answerJSON(w, http.StatusOK, map[string]any{})
			return
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}
}

func (q *queue) take(most int) (found []map[string]string, arrived chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.served++
	for _, m := range q.messages {
		if len(found) == most {
			break
		}
		if time.Now().Before(m.hidden) {
			continue
		}
		m.hidden = time.Now().Add(visibility)
		m.receipt = fmt.Sprintf("%s-%d", m.id, q.served)
		sum := md5.Sum([]byte(m.body))
		found = append(found, map[string]string{"MessageId": m.id, "ReceiptHandle": m.receipt, "Body": m.body, "MD5OfBody": hex.EncodeToString(sum[:])})
	}
	return found, q.arrived
}

func (q *queue) remove(receipt string) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, m := range q.messages {
		if m.receipt == receipt {
			q.messages = append(q.messages[:i], q.messages[i+1:]...)
			return
		}
	}
}

// eventTypes are the types of the documentation's "Game session placement events".
var eventTypes = map[string]string{"FULFILLED": "PlacementFulfilled", "CANCELLED": "PlacementCancelled", "TIMED_OUT": "PlacementTimedOut", "FAILED": "PlacementFailed"}

// notification is what SNS hands on: the event, in an envelope.
func notification(p *placement) string {
	detail := map[string]any{
		"type": eventTypes[p.status], "placementId": p.id, "startTime": p.start.UTC().Format(time.RFC3339Nano), "endTime": p.end.UTC().Format(time.RFC3339Nano),
	}
	if s := p.session; s != nil && p.status == "FULFILLED" {
		detail["port"], detail["gameSessionArn"], detail["ipAddress"], detail["dnsName"] = fmt.Sprint(s.port), s.arn, s.ip, s.dns
		detail["gameSessionRegion"], detail["placedPlayerSessions"] = s.location, []any{}
	}
	event, _ := json.Marshal(map[string]any{
		"version": "0", "id": "1111aaaa-bb22-cc33-dd44-5555eeee66ff", "detail-type": "GameLift Queue Placement Event", "source": "aws.gamelift", "account": account,
		"time": p.end.UTC().Format(time.RFC3339), "region": p.region, "resources": []string{"arn:aws:gamelift:" + p.region + ":" + account + ":gamesessionqueue/" + queueName(p.queue)},
		"detail": detail,
	})
	envelope, _ := json.Marshal(map[string]string{
		"Type": "Notification", "MessageId": "d0f1e2a3-0000-5000-8000-000000000000", "TopicArn": "arn:aws:sns:" + p.region + ":" + account + ":placements",
		"Message": string(event), "Timestamp": p.end.UTC().Format(time.RFC3339Nano), "SignatureVersion": "1", "Signature": "EXAMPLE",
		"SigningCertURL": "https://sns." + p.region + ".amazonaws.com/SimpleNotificationService.pem", "UnsubscribeURL": "https://sns." + p.region + ".amazonaws.com/?Action=Unsubscribe",
	})
	return string(envelope)
}
