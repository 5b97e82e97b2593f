// Berth-allocation runs the allocation service.
package main

import (
	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/services/allocation"
)

func main() {
	cfg := allocation.Default()
	app.Main("berth-allocation", "Gets game servers from hosting providers and gives them back", &cfg, &cfg.Process, allocation.Module)
}
