// Command berth-token-issuer runs Berth's token-issuer service.
package main

import (
	"github.com/berth-dev/berth/pkg/app"
	"github.com/berth-dev/berth/services/tokenissuer"
)

func main() {
	cfg := tokenissuer.Default()
	app.Main("berth-token-issuer", "Mints Berth's partner tokens and player tickets and publishes their keys", &cfg, &cfg.Process, tokenissuer.Module)
}
