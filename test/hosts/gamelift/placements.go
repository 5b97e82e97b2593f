package gamelift

import (
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/aws/smithy-go/encoding/cbor"
)

// placementID is its form in the model ("PlacementId").
var placementID = regexp.MustCompile(`^[a-zA-Z0-9-]+$`)

// locationName is its form in the model ("LocationStringModel").
var locationName = regexp.MustCompile(`^[A-Za-z0-9-]+$`)

type placement struct {
	id, queue, region, data, status string
	properties                      cbor.List
	locations                       []string // nil: the queue's own order
	most                            int
	start, end                      time.Time
	session                         *session
}

func (a *api) startPlacement(region string, in *input) (cbor.Map, *fault) {
	p := &placement{
		id: in.text("PlacementId", true, 48, placementID), queue: in.text("GameSessionQueueName", true, 256, nil), most: in.whole("MaximumPlayerSessionCount", true),
		data: in.text("GameSessionData", false, maxData, nil), properties: in.properties(), region: region, status: "PENDING", start: time.Now(),
	}
	in.text("GameSessionName", false, 1024, nil)
	override, overridden := in.members["PriorityConfigurationOverride"].(cbor.Map)
	if overridden {
		p.locations = in.texts("LocationOrder", override["LocationOrder"])
		for _, l := range p.locations {
			if len(l) > 64 || !locationName.MatchString(l) {
				in.refuse("InvalidRequestException", "LocationOrder: %q is no location", l)
			}
		}
		if n := len(p.locations); n < 1 || n > 10 {
			in.refuse("InvalidRequestException", "LocationOrder: has %d of 1 to 10", n)
		}
		if f, ok := override["PlacementFallbackStrategy"].(cbor.String); ok && f != "DEFAULT_AFTER_SINGLE_PASS" && f != "NONE" {
			in.refuse("InvalidRequestException", "PlacementFallbackStrategy: %q", string(f))
		}
	}
	if in.fault != nil {
		return nil, in.fault
	}
	q, ok := a.cfg.Queues[queueName(p.queue)]
	switch {
	case !ok || q.Region != region:
		return nil, fail("NotFoundException", "Queue %s does not exist", p.queue)
	case a.placements[p.id] != nil: // "must be unique across all Regions and cannot be reused"; which error it is, is an assumption
		return nil, fail("InvalidRequestException", "Placement already exists with id %s", p.id)
	case overridden && !q.Locations: // "results in a InvalidRequestException … a queue that doesn't prioritize locations"
		return nil, fail("InvalidRequestException", "PriorityConfigurationOverride: queue %s does not prioritize locations", p.queue)
	}
	a.placements[p.id] = p
	a.after(placing, func() { a.try(p, q) })
	return cbor.Map{"GameSessionPlacement": p.body()}, nil
}

// queueName of a name or an ARN.
func queueName(s string) string { return s[strings.LastIndex(s, "/")+1:] }

// try looks for room until the queue's time is over ("continues to retry each placement request until it reaches the queue's timeout setting").
func (a *api) try(p *placement, q Queue) {
	if p.status != "PENDING" {
		return
	}
	for _, destination := range q.Destinations {
		fleet, f := a.fleetOf(destination)
		if f != nil {
			continue
		}
		for _, location := range a.locationsOf(fleet, p.locations) {
			if s, f := a.newSession(fleet, location, "", p.data, p.properties, p.most); f == nil {
				p.session = s
				s.placement = p
				return // fulfilled when it is active
			}
		}
	}
	if time.Since(p.start) >= q.Timeout {
		a.finish(p, "TIMED_OUT")
		return
	}
	a.after(placing, func() { a.try(p, q) })
}

// locationsOf are those of a fleet that may be tried, in that order.
func (a *api) locationsOf(fleet string, order []string) []string {
	f := a.cfg.Fleets[fleet]
	own := slices.Clone(f.Locations)
	if !f.Anywhere {
		own = append([]string{f.Region}, own...)
	}
	if order == nil {
		return own
	}
	return slices.DeleteFunc(slices.Clone(order), func(l string) bool { return !slices.Contains(own, l) })
}

// finish ends a placement, and tells the queue's topic.
func (a *api) finish(p *placement, status string) {
	p.status, p.end = status, time.Now()
	a.queue.send(notification(p))
	close(a.moved)
	a.moved = make(chan struct{})
}

func (a *api) placement(region string, in *input) (*placement, *fault) {
	id := in.text("PlacementId", true, 48, placementID)
	p := a.placements[id]
	switch {
	case in.fault != nil:
		return nil, in.fault
	case p == nil || p.region != region:
		return nil, fail("NotFoundException", "Game session placement not found")
	}
	return p, nil
}

func (a *api) describePlacement(region string, in *input) (cbor.Map, *fault) {
	p, f := a.placement(region, in)
	if f != nil {
		return nil, f
	}
	return cbor.Map{"GameSessionPlacement": p.body()}, nil
}

// stopPlacement cancels a placement that is pending ("results in an InvalidRequestExecption (400) error if a game session has already been created"). That one
// that is cancelled is cancelled again without an error, is an assumption.
func (a *api) stopPlacement(region string, in *input) (cbor.Map, *fault) {
	p, f := a.placement(region, in)
	switch {
	case f != nil:
		return nil, f
	case p.session != nil || p.status != "PENDING" && p.status != "CANCELLED":
		return nil, fail("InvalidRequestException", "Placement %s is not pending", p.id)
	case p.status == "PENDING":
		a.finish(p, "CANCELLED")
	}
	return cbor.Map{"GameSessionPlacement": p.body()}, nil
}

// body is a GameSessionPlacement; where its session is, is there only once it is final ("FULFILLED").
func (p *placement) body() cbor.Map {
	m := cbor.Map{
		"PlacementId": cbor.String(p.id), "GameSessionQueueName": cbor.String(p.queue), "Status": cbor.String(p.status), "MaximumPlayerSessionCount": cbor.Uint(p.most),
		"StartTime": stamp(p.start), "GameProperties": p.properties,
	}
	if p.properties == nil {
		m["GameProperties"] = cbor.List{}
	}
	if p.data != "" {
		m["GameSessionData"] = cbor.String(p.data)
	}
	if !p.end.IsZero() {
		m["EndTime"] = stamp(p.end)
	}
	if p.locations != nil {
		list := cbor.List{}
		for _, l := range p.locations {
			list = append(list, cbor.String(l))
		}
		m["PriorityConfigurationOverride"] = cbor.Map{"LocationOrder": list, "PlacementFallbackStrategy": cbor.String("NONE")}
	}
	if s := p.session; s != nil && p.status == "FULFILLED" {
		m["GameSessionArn"], m["GameSessionId"], m["GameSessionRegion"] = cbor.String(s.arn), cbor.String(s.arn), cbor.String(s.location)
		m["IpAddress"], m["DnsName"], m["Port"] = cbor.String(s.ip), cbor.String(s.dns), cbor.Uint(s.port)
	}
	return m
}

// stamp is a timestamp: seconds since 1970, with tag 1.
func stamp(t time.Time) cbor.Value {
	return &cbor.Tag{ID: 1, Value: cbor.Float64(float64(t.UnixMilli()) / 1000)}
}

func (a *api) describeQueues(region string, in *input) (cbor.Map, *fault) {
	list := cbor.List{}
	for _, name := range in.texts("Names", in.members["Names"]) {
		q, ok := a.cfg.Queues[queueName(name)]
		if !ok || q.Region != region {
			return nil, fail("NotFoundException", "Queue %s does not exist", name)
		}
		destinations := cbor.List{}
		for _, d := range q.Destinations {
			destinations = append(destinations, cbor.Map{"DestinationArn": cbor.String(a.arnOf(d))})
		}
		list = append(list, cbor.Map{
			"Name": cbor.String(queueName(name)), "TimeoutInSeconds": cbor.Uint(q.Timeout / time.Second), "Destinations": destinations,
			"GameSessionQueueArn": cbor.String("arn:aws:gamelift:" + region + ":" + account + ":gamesessionqueue/" + queueName(name)),
		})
	}
	return cbor.Map{"GameSessionQueues": list}, nil
}

// arnOf is the ARN of a fleet or an alias.
func (a *api) arnOf(name string) string {
	if alias, ok := a.cfg.Aliases[name]; ok {
		return "arn:aws:gamelift:" + alias.Region + "::alias/" + name
	}
	return "arn:aws:gamelift:" + a.cfg.Fleets[name].Region + ":" + account + ":fleet/" + name
}
