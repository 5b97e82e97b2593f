package playfab

import (
	"encoding/base64"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"time"

	"github.com/google/uuid"
)

// regions are those of the spec's AzureRegion.
var regions = []string{
	"AustraliaEast", "AustraliaSoutheast", "BrazilSouth", "CentralUs", "EastAsia", "EastUs", "EastUs2", "JapanEast", "JapanWest", "NorthCentralUs", "NorthEurope",
	"SouthCentralUs", "SoutheastAsia", "WestEurope", "WestUs", "SouthAfricaNorth", "WestCentralUs", "KoreaCentral", "FranceCentral", "WestUs2", "CentralIndia", "UaeNorth",
	"UkSouth", "SwedenCentral", "CanadaCentral", "MexicoCentral",
}

const (
	// maxCookie is the spec's "Maximum size is 8KB". An older page of the docs has 4 KB.
	maxCookie = 8 << 10
	// pollsToEnd is how often details say Terminating of a server that was told to shut down; the docs give it up to 15 minutes.
	pollsToEnd = 1
	// pollsToForget is how often they say Terminated after that. That it is forgotten then is an assumption ("replaced by the system after a period of time").
	pollsToForget = 2
	// listingsToShow is how many listings a session that was just made is not in. An assumption.
	listingsToShow = 1
	// defaultPage is how many servers a page has for which no size was asked. An assumption.
	defaultPage = 2
)

// States of a server (docs, "Lifecycle of a multiplayer server").
const (
	active      = "Active"
	terminating = "Terminating"
	terminated  = "Terminated"
)

// session is a server that was asked for.
type session struct {
	id, server, build, region, state string
	number                           int
	since                            time.Time
	polls, listings                  int
	stop                             func()
}

type port struct {
	Name     string
	Num      int
	Protocol string
}

// summary is a MultiplayerServerSummary, with what the spec's example of ListMultiplayerServers has beyond it.
func (s *session) summary() map[string]any {
	return map[string]any{
		"SessionId": s.id, "ServerId": s.server, "VmId": fmt.Sprintf("xcloudwusu4uyz5daouzl:%s:vm%d", s.region, s.number), "Region": s.region, "State": s.state,
		"LastStateTransitionTime": s.since, "ConnectedPlayers": []any{},
		"IPV4Address": fmt.Sprintf("20.0.%d.%d", s.number/250%250, 1+s.number%250), "FQDN": fmt.Sprintf("dns%d.westeurope.cloudapp.azure.com", s.number),
		"Ports": []port{{"game_port", 30_000 + 2*s.number%30_000, "UDP"}, {"web", 30_001 + 2*s.number%30_000, "TCP"}},
	}
}

// whole is a RequestMultiplayerServerResponse and a GetMultiplayerServerDetailsResponse. Neither has the request's CustomTags or SessionCookie.
func (s *session) whole() map[string]any {
	body := s.summary()
	body["BuildId"] = s.build
	return body
}

// request is RequestMultiplayerServer.
func (a *api) request(w http.ResponseWriter, r *http.Request) {
	var in struct {
		BuildID          string `json:"BuildId"`
		BuildAliasParams *struct {
			AliasID string `json:"AliasId"`
		}
		CustomTags       map[string]string
		InitialPlayers   []string
		PreferredRegions []string
		SessionCookie    string
		SessionID        string `json:"SessionId"`
	}
	if !read(w, r, &in) {
		return
	}
	details := make(map[string][]string)
	if len(in.PreferredRegions) == 0 { // required
		details["PreferredRegions"] = []string{"The PreferredRegions field is required."}
	}
	if !guid(in.SessionID) { // required; "A guid string session ID"
		details["SessionId"] = []string{"The SessionId field is required, and has to be a GUID."}
	}
	if len(in.SessionCookie) > maxCookie {
		details["SessionCookie"] = []string{"The SessionCookie field has more than 8 KB."}
	}
	if len(details) > 0 {
		refuse(w, invalidParams, "Invalid input parameters", details)
		return
	}
	builds := []string{in.BuildID}
	if in.BuildAliasParams != nil {
		builds = a.cfg.Aliases[in.BuildAliasParams.AliasID]
	}
	switch {
	case (in.BuildID == "") == (in.BuildAliasParams == nil): // both are optional; an assumption
		refuse(w, badRequest, "Either BuildId or BuildAliasParams has to be specified", nil)
	case slices.ContainsFunc(in.PreferredRegions, func(region string) bool { return !slices.Contains(regions, region) }): // an assumption: it is a String there
		refuse(w, badRequest, "PreferredRegions has a value that is no region", nil)
	case len(builds) == 0 || a.cfg.Builds[builds[0]] == nil:
		refuse(w, notFound, "The build or alias does not exist", nil)
	case a.sessions[in.SessionID] != nil:
		a.repeated(w, a.sessions[in.SessionID])
	default:
		a.allocate(w, in.SessionID, in.SessionCookie, builds, in.PreferredRegions)
	}
}

// repeated answers a request for a session that there was. The docs: "Retries to this API for the same logical session should re-use the same identifier. This
// mitigates the possibility of caller retry behavior creating unnecessary servers". What the answer is, they do not say: each in turn that it may be.
func (a *api) repeated(w http.ResponseWriter, s *session) {
	a.repeats++
	if s.state == active && a.repeats%2 == 0 {
		succeed(w, s.whole())
		return
	}
	refuse(w, conflict, "The session exists already", nil)
}

// allocate takes a server that stands by, from the first region that has one ("will iterate through the regions in the specified order"), and in each from the
// first build of the alias ("Fallback to other builds and regions").
func (a *api) allocate(w http.ResponseWriter, id, cookie string, builds, preferred []string) {
	deployed := false
	for _, region := range preferred {
		for _, build := range builds {
			if !slices.Contains(a.cfg.Builds[build], region) {
				continue
			}
			deployed = true
			if a.standingBy(build, region) {
				succeed(w, a.start(id, cookie, build, region).whole())
				return
			}
		}
	}
	if !deployed { // an assumption
		refuse(w, badRequest, "The build is not deployed in any of the preferred regions", nil)
		return
	}
	refuse(w, tooManyRequests, "There are no servers standing by", nil)
}

// standingBy reports whether a build has a server in a region that is not taken: one comes in the place of each that has ended.
func (a *api) standingBy(build, region string) bool {
	taken := 0
	for _, s := range a.order {
		if s.build == build && s.region == region && s.state != terminated {
			taken++
		}
	}
	return taken < a.cfg.Servers
}

func (a *api) start(id, cookie, build, region string) *session {
	s := &session{id: id, server: uuid.NewString(), build: build, region: region, state: active, number: len(a.order), since: time.Now().UTC()}
	a.sessions[id] = s
	a.order = append(a.order, s)
	s.stop = a.servers.Start([]byte(cookie), func() { a.ended(s) }) // "passed to the game server when requested"
	return s
}

// ended is a server whose process exited.
func (a *api) ended(s *session) {
	a.mu.Lock()
	defer a.mu.Unlock()
	s.turn(terminated)
}

func (s *session) turn(state string) { s.state, s.polls, s.since = state, 0, time.Now().UTC() }

// find returns a session that there is, or refuses.
func (a *api) find(w http.ResponseWriter, id string) *session {
	if !guid(id) {
		refuse(w, invalidParams, "Invalid input parameters", map[string][]string{"SessionId": {"The SessionId field is required, and has to be a GUID."}})
		return nil
	}
	s := a.sessions[id]
	if s == nil || s.state == terminated && s.polls >= pollsToForget {
		refuse(w, notFound, "The session does not exist", nil)
		return nil
	}
	return s
}

// details is GetMultiplayerServerDetails.
func (a *api) details(w http.ResponseWriter, r *http.Request) {
	var in struct {
		SessionID  string `json:"SessionId"`
		CustomTags map[string]string
	}
	if !read(w, r, &in) {
		return
	}
	s := a.find(w, in.SessionID)
	if s == nil {
		return
	}
	if s.state == terminating && s.polls >= pollsToEnd {
		s.turn(terminated)
	}
	s.polls++
	succeed(w, s.whole())
}

// shutdown is ShutdownMultiplayerServer: the server is told, and has time. What a repeat gets is an assumption: nothing new while it ends, and then the spec's
// MultiplayerServerNoContent, which has no content.
func (a *api) shutdown(w http.ResponseWriter, r *http.Request) {
	var in struct {
		SessionID  string `json:"SessionId"`
		BuildID    string `json:"BuildId"`
		Region     string
		CustomTags map[string]string
	}
	if !read(w, r, &in) {
		return
	}
	s := a.find(w, in.SessionID)
	switch {
	case s == nil:
	case s.state == terminated:
		w.WriteHeader(http.StatusNoContent)
	default:
		if s.state == active {
			s.turn(terminating)
			s.stop()
		}
		succeed(w, struct{}{})
	}
}

// list is ListMultiplayerServers, of one build in one region. A SkipToken says where the page before it ended.
func (a *api) list(w http.ResponseWriter, r *http.Request) {
	var in struct {
		BuildID    string `json:"BuildId"`
		Region     string
		PageSize   int
		SkipToken  string
		CustomTags map[string]string
	}
	switch {
	case !read(w, r, &in):
		return
	case !guid(in.BuildID) || in.Region == "": // required
		refuse(w, invalidParams, "Invalid input parameters", map[string][]string{"BuildId": {"The BuildId and Region fields are required."}})
		return
	case a.cfg.Builds[in.BuildID] == nil:
		refuse(w, notFound, "The build does not exist", nil)
		return
	}
	after, size := -1, defaultPage
	if in.SkipToken != "" {
		raw, _ := base64.StdEncoding.DecodeString(in.SkipToken)
		n, err := strconv.Atoi(string(raw))
		if err != nil {
			refuse(w, badRequest, "SkipToken is none of this API", nil)
			return
		}
		after = n
	}
	if in.PageSize > 0 {
		size = in.PageSize
	}
	succeed(w, a.page(in.BuildID, in.Region, after, size))
}

func (a *api) page(build, region string, after, size int) map[string]any {
	first, list := after < 0, []any{}
	body := map[string]any{"PageSize": size}
	for _, s := range a.order {
		if s.build != build || s.region != region || s.number <= after {
			continue
		}
		if first {
			s.listings++
		}
		if s.listings <= listingsToShow || s.state == terminated && s.polls >= pollsToForget {
			continue
		}
		if len(list) == size {
			body["SkipToken"] = base64.StdEncoding.EncodeToString([]byte(strconv.Itoa(after)))
			continue // the other sessions' listings are counted
		}
		list = append(list, s.summary())
		after = s.number
	}
	if first { // one that stands by, which has no session
		list = append(list, map[string]any{"ServerId": uuid.NewString(), "VmId": "vm", "Region": region, "State": "StandingBy", "ConnectedPlayers": []any{}})
	}
	body["MultiplayerServerSummaries"] = list
	return body
}

// alias is GetBuildAlias.
func (a *api) alias(w http.ResponseWriter, r *http.Request) {
	var in struct {
		AliasID    string `json:"AliasId"`
		CustomTags map[string]string
	}
	if !read(w, r, &in) {
		return
	}
	builds, ok := a.cfg.Aliases[in.AliasID]
	if !ok {
		refuse(w, notFound, "The alias does not exist", nil)
		return
	}
	weights := make(map[string]int, len(builds))
	for _, build := range builds {
		weights[build] = 1
	}
	succeed(w, map[string]any{"AliasId": in.AliasID, "AliasName": "alias", "BuildSelectionCriteria": []any{map[string]any{"BuildWeightDistribution": weights}}})
}

// guid reports whether a text is one as PlayFab writes them.
func guid(text string) bool { return len(text) == 36 && uuid.Validate(text) == nil }
