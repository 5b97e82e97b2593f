package gamelift

import (
	"cmp"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/aws/smithy-go/encoding/cbor"
)

// sessionsPage is how many sessions a page has at most. An assumption, and few.
const sessionsPage = 2

type session struct {
	arn, fleet, region, location, token, data, status, reason, ip, dns string
	properties                                                         cbor.List
	most, port, number                                                 int
	created                                                            time.Time
	placement                                                          *placement
	stop                                                               func()
}

// fleetOf is the name of the fleet that an id or ARN of a fleet or alias stands for.
func (a *api) fleetOf(id string) (string, *fault) {
	name := queueName(id)
	if alias, ok := a.cfg.Aliases[name]; ok {
		if alias.Message != "" {
			return "", fail("TerminalRoutingStrategyException", "%s", alias.Message)
		}
		name = alias.Fleet
	}
	if _, ok := a.cfg.Fleets[name]; !ok {
		return "", fail("NotFoundException", "Fleet %s not found", id)
	}
	return name, nil
}

// fleet is the one that a request names, by FleetId or AliasId ("either a fleet ID or alias ID, but not both"), in the Region of the request.
func (a *api) fleet(region string, in *input) (string, *fault) {
	fleetID, aliasID := in.text("FleetId", false, 512, nil), in.text("AliasId", false, 512, nil)
	if in.fault != nil {
		return "", in.fault
	}
	if (fleetID == "") == (aliasID == "") {
		return "", fail("InvalidRequestException", "One of FleetId and AliasId is needed")
	}
	if alias, isAlias := a.cfg.Aliases[queueName(aliasID)]; aliasID != "" && (!isAlias || alias.Region != region) {
		return "", fail("NotFoundException", "Alias %s not found", aliasID)
	}
	name, f := a.fleetOf(cmp.Or(fleetID, aliasID))
	if f == nil && a.cfg.Fleets[name].Region != region {
		return "", fail("NotFoundException", "Fleet %s not found", fleetID)
	}
	return name, f
}

func (a *api) resolveAlias(region string, in *input) (cbor.Map, *fault) {
	id := in.text("AliasId", true, 512, nil)
	if alias, ok := a.cfg.Aliases[queueName(id)]; !ok || alias.Region != region {
		return nil, fail("NotFoundException", "Alias %s not found", id)
	}
	name, f := a.fleetOf(id)
	if f != nil {
		return nil, f
	}
	return cbor.Map{"FleetId": cbor.String(name), "FleetArn": cbor.String(a.arnOf(name))}, nil
}

func (a *api) create(region string, in *input) (cbor.Map, *fault) {
	token, location := in.text("IdempotencyToken", false, 48, placementID), in.text("Location", false, 64, locationName)
	data, most, properties := in.text("GameSessionData", false, maxData, nil), in.whole("MaximumPlayerSessionCount", true), in.properties()
	in.text("Name", false, 1024, nil)
	fleet, f := a.fleet(region, in)
	if f != nil {
		return nil, f
	}
	of := a.cfg.Fleets[fleet]
	if location == "" && !of.Anywhere {
		location = of.Region
	}
	switch {
	case in.fault != nil:
		return nil, in.fault
	case !slices.Contains(a.locationsOf(fleet, nil), location): // "When using an Anywhere fleet, this parameter is required"
		return nil, fail("InvalidRequestException", "Location %q is none of fleet %s", location, fleet)
	}
	for _, s := range a.sessions {
		if token == "" || s.token != token || s.fleet != fleet {
			continue
		}
		if s.data != data || s.location != location || s.most != most || fmt.Sprint(s.properties) != fmt.Sprint(properties) {
			return nil, fail("IdempotentParameterMismatchException", "A game session with this token has other parameters")
		}
		return cbor.Map{"GameSession": s.body()}, nil // "return the original GameSession object, with an updated status"
	}
	s, f := a.newSession(fleet, location, token, data, properties, most)
	if f != nil {
		return nil, f
	}
	return cbor.Map{"GameSession": s.body()}, nil
}

// newSession finds a server process of the fleet for a session.
func (a *api) newSession(fleet, location, token, data string, properties cbor.List, most int) (*session, *fault) {
	of, busy := a.cfg.Fleets[fleet], 0
	for _, s := range a.sessions {
		if s.fleet == fleet && s.status != "TERMINATED" {
			busy++
		}
	}
	switch {
	case of.Status != "" && of.Status != "ACTIVE": // "The target fleet must be in ACTIVE status"
		return nil, fail("InvalidFleetStatusException", "Fleet %s is in status %s", fleet, of.Status)
	case busy >= of.Slots:
		return nil, fail("FleetCapacityExceededException", "Unable to reserve a process on fleet %s, fleet arn", fleet)
	}
	a.made++
	n := a.made
	s := &session{
		fleet: fleet, region: of.Region, location: location, token: token, data: data, properties: properties, most: most, number: n, created: time.Now(), status: "ACTIVATING",
		arn: a.sessionARN(of.Region, fleet, location, cmp.Or(token, fmt.Sprintf("gsess-%08d", n))),
		ip:  fmt.Sprintf("203.0.113.%d", n%250+1), port: 20_000 + n%40_000, dns: fmt.Sprintf("ec2-203-0-113-%d.compute.amazonaws.com", n%250+1),
	}
	if of.TLS {
		s.dns = fmt.Sprintf("b08444ki909kvqu6zpw3is24x%d.%s.amazongamelift.com", n, of.Region)
	}
	a.sessions[s.arn] = s
	s.stop = a.servers.Start([]byte(data), func() { // it calls ProcessEnding by itself
		a.mu.Lock()
		defer a.mu.Unlock()
		s.status = "TERMINATED"
	})
	a.after(activating, func() { a.activate(s) })
	return s, nil
}

// Forms of a session's ARN. That one of another form is refused as invalid is an assumption.
var (
	sessionForm = regexp.MustCompile(`^arn:aws[a-z-]*:gamelift:[a-z]{2,}(-[a-z]+)+-\d{1,2}::gamesession/[a-z]*fleet-[a-zA-Z0-9-]+(/[A-Za-z0-9-]+)?/[A-Za-z0-9-]+$`)
	olderForm   = regexp.MustCompile(`^arn:aws[a-z-]*:gamelift:[A-Za-z0-9-]+::gamesession/[a-z]*fleet-[a-zA-Z0-9-]+/[A-Za-z0-9-]+$`)
)

// sessionARN is the ARN of a session. "For Home Region game session - arn:aws:gamelift:<home_region>::gamesession/<fleet ID>/<ID string>. For Remote Location game
// session - arn:aws:gamelift:<home_region>::gamesession/<fleet ID>/<location>/<ID string>" (GameSessionPlacement). Older pages have
// "arn:aws:gamelift:<location>::gamesession/<fleet ID>/<custom ID string or idempotency token>".
func (a *api) sessionARN(home, fleet, location, id string) string {
	switch {
	case a.cfg.OlderARNs:
		return "arn:aws:gamelift:" + location + "::gamesession/" + fleet + "/" + id
	case location == home:
		return "arn:aws:gamelift:" + home + "::gamesession/" + fleet + "/" + id
	default:
		return "arn:aws:gamelift:" + home + "::gamesession/" + fleet + "/" + location + "/" + id
	}
}

func (a *api) activate(s *session) {
	if a.held {
		a.after(activating, func() { a.activate(s) })
		return
	}
	if s.status == "ACTIVATING" {
		s.status = "ACTIVE"
	}
	if s.placement != nil && s.placement.status == "PENDING" {
		a.finish(s.placement, "FULFILLED")
	}
}

// body is a GameSession; it has connection information once it is active ("When the game session status is ACTIVE, it is updated with connection information").
func (s *session) body() cbor.Map {
	m := cbor.Map{
		"GameSessionId": cbor.String(s.arn), "FleetId": cbor.String(s.fleet), "Status": cbor.String(s.status), "Location": cbor.String(s.location),
		"CreationTime": stamp(s.created), "MaximumPlayerSessionCount": cbor.Uint(s.most), "CurrentPlayerSessionCount": cbor.Uint(0), "GameProperties": s.properties,
		"FleetArn": cbor.String("arn:aws:gamelift:" + s.region + ":" + account + ":fleet/" + s.fleet),
	}
	if s.properties == nil {
		m["GameProperties"] = cbor.List{}
	}
	if s.data != "" {
		m["GameSessionData"] = cbor.String(s.data)
	}
	if s.reason != "" {
		m["StatusReason"] = cbor.String(s.reason)
	}
	if s.status != "ACTIVATING" {
		m["IpAddress"], m["DnsName"], m["Port"] = cbor.String(s.ip), cbor.String(s.dns), cbor.Uint(s.port)
	}
	return m
}

// find is the session of a request ("looks for the game session ID in all fleets that reside in the AWS Region defined in the request").
func (a *api) find(region string, in *input) (*session, *fault) {
	form := sessionForm
	if a.cfg.OlderARNs {
		form = olderForm
	}
	s := a.sessions[in.text("GameSessionId", true, 512, form)]
	if in.fault != nil {
		return nil, in.fault
	}
	if s == nil || s.region != region {
		return nil, fail("NotFoundException", "Game session not found")
	}
	return s, nil
}

func (a *api) describe(region string, in *input) (cbor.Map, *fault) {
	limit, filter, location := in.whole("Limit", false), in.text("StatusFilter", false, 1024, nil), in.text("Location", false, 64, locationName)
	if _, one := in.members["GameSessionId"]; one {
		return a.describeOne(region, in)
	}
	fleet, f := a.fleet(region, in)
	after, err := strconv.Atoi(cmp.Or(strings.TrimPrefix(in.text("NextToken", false, 1024, nil), "page-"), "0"))
	switch {
	case f != nil:
		return nil, f
	case in.fault != nil:
		return nil, in.fault
	case err != nil:
		return nil, fail("InvalidRequestException", "NextToken is invalid")
	}
	var found []*session
	for _, s := range a.sessions {
		if s.fleet == fleet && s.number > after && (filter == "" || s.status == filter) && (location == "" || s.location == location) && time.Since(s.created) > listing {
			found = append(found, s)
		}
	}
	slices.SortFunc(found, func(a, b *session) int { return a.number - b.number })
	out, list := cbor.Map{}, cbor.List{}
	for i, s := range found {
		if i == sessionsPage || limit > 0 && i == limit {
			out["NextToken"] = cbor.String(fmt.Sprintf("page-%d", found[i-1].number))
			break
		}
		list = append(list, s.body())
	}
	out["GameSessions"] = list
	return out, nil
}

// describeOne answers for one session. What is said of one that is not there, is not documented: NotFoundException is among the errors of the call, and "a
// GameSession object is returned for each game session that matches the request" may mean an empty list. It is each in turn, an assumption.
func (a *api) describeOne(region string, in *input) (cbor.Map, *fault) {
	s, f := a.find(region, in)
	switch {
	case f == nil:
		return cbor.Map{"GameSessions": cbor.List{s.body()}}, nil
	case f.code == "NotFoundException":
		if a.missed++; a.missed%2 == 0 {
			return cbor.Map{"GameSessions": cbor.List{}}, nil
		}
	}
	return nil, f
}

func (a *api) terminate(region string, in *input) (cbor.Map, *fault) {
	s, f := a.find(region, in)
	if f != nil {
		return nil, f
	}
	of, mode := a.cfg.Fleets[s.fleet], in.text("TerminationMode", true, 64, nil)
	switch {
	case mode != "TRIGGER_ON_PROCESS_TERMINATE" && mode != "FORCE_TERMINATE":
		return nil, fail("InvalidRequestException", "TerminationMode %q", mode)
	case s.status == "TERMINATED" || s.status == "ACTIVATING": // that one which activates cannot be ended is an assumption
		return nil, fail("InvalidGameSessionStatusException", "Game session is in status %s", s.status)
	case mode == "FORCE_TERMINATE" && of.Anywhere: // "results in an invalid or bad request exception"
		return nil, fail("InvalidRequestException", "FORCE_TERMINATE is not available for this fleet")
	}
	s.status = "TERMINATING"
	if mode == "FORCE_TERMINATE" || !of.Stubborn { // "If the server process doesn't call ProcessEnding(), the game session termination won't conclude successfully"
		reason := map[bool]string{true: "FORCE_TERMINATED", false: "TRIGGERED_ON_PROCESS_TERMINATE"}[mode == "FORCE_TERMINATE"]
		a.after(terminating, func() {
			if s.status == "TERMINATING" {
				s.status, s.reason = "TERMINATED", reason
				s.stop()
			}
		})
	}
	return cbor.Map{"GameSession": s.body()}, nil
}

// End ends the session of the attempt as its server process does: by itself.
func (h *Host) End(attempt string) {
	h.api.mu.Lock()
	defer h.api.mu.Unlock()
	for _, s := range h.api.sessions {
		if s.token == attempt || s.placement != nil && s.placement.id == attempt {
			s.status = "TERMINATED"
			s.stop()
		}
	}
}

// Forget forgets the session of the attempt, as GameLift does 30 days after its end.
func (h *Host) Forget(attempt string) {
	h.api.mu.Lock()
	defer h.api.mu.Unlock()
	maps.DeleteFunc(h.api.sessions, func(_ string, s *session) bool {
		return s.token == attempt || s.placement != nil && s.placement.id == attempt
	})
}

// Session returns the ARN of the attempt's session; "" without one.
func (h *Host) Session(attempt string) string {
	h.api.mu.Lock()
	defer h.api.mu.Unlock()
	for arn, s := range h.api.sessions {
		if s.token == attempt || s.placement != nil && s.placement.id == attempt {
			return arn
		}
	}
	return ""
}

// Foreign makes a session on a fleet that somebody else asked for, without game properties. It is active and in all lists.
func (h *Host) Foreign(fleet string) {
	h.api.mu.Lock()
	defer h.api.mu.Unlock()
	if s, f := h.api.newSession(fleet, h.api.cfg.Fleets[fleet].Region, "", "", nil, 1); f == nil {
		s.status, s.created = "ACTIVE", s.created.Add(-time.Hour)
	}
}

// Hold has no server process call ActivateGameSession while it is on.
func (h *Host) Hold(on bool) {
	h.api.mu.Lock()
	defer h.api.mu.Unlock()
	h.api.held = on
}
