// Command berth-gateway runs the gateway.
package main

import (
	"github.com/berth-dev/berth/pkg/app"

	"github.com/berth-dev/berth/services/gateway"
	"github.com/berth-dev/berth/services/gateway/internal/memory"
)

func main() {
	memory.KeepLittleGarbage()
	cfg := gateway.Default()
	app.Main("berth-gateway", "The edge of Berth: the link of game servers, and REST", &cfg, &cfg.Process, gateway.Module)
}
