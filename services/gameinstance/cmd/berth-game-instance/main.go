// Command berth-game-instance runs the service that owns game instances.
package main

import (
	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/services/gameinstance"
)

func main() {
	cfg := gameinstance.Default()
	app.Main("berth-game-instance", "Owns game instances, game servers' sessions and their mailboxes", &cfg, &cfg.Process, gameinstance.Module)
}
