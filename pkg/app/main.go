package app

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/redis/go-redis/v9"
	"github.com/spf13/cobra"
	"go.opentelemetry.io/otel"
	"go.yaml.in/yaml/v3"

	"github.com/berth-dev/berth/pkg/conf"
	"github.com/berth-dev/berth/pkg/tracing"
)

// Process is the part of a service's configuration that concerns its process. Services embed it.
type Process struct {
	// AdminAddr is where health, metrics and pprof are served; empty: nowhere.
	AdminAddr string `yaml:"admin_addr" env:"ADMIN_ADDR"`
	// LogLevel is debug, info, warn or error. Default info.
	LogLevel string `yaml:"log_level" env:"LOG_LEVEL"`
	// LogFormat is text or json. Default json.
	LogFormat string `yaml:"log_format" env:"LOG_FORMAT"`
	// Tracing says where spans of calls go. Default: nowhere.
	Tracing tracing.Config `yaml:"tracing" envPrefix:"TRACING_"`
}

// DefaultProcess returns the defaults of a service with this admin address.
func DefaultProcess(adminAddr string) Process {
	return Process{AdminAddr: adminAddr, LogLevel: "info", LogFormat: "json", Tracing: tracing.DefaultConfig()}
}

// Logger returns the logger that the configuration asks for, writing to standard error.
func (p Process) Logger() (*slog.Logger, error) {
	var level slog.Level
	if p.LogLevel != "" {
		if err := level.UnmarshalText([]byte(p.LogLevel)); err != nil {
			return nil, fmt.Errorf("log_level (BERTH_LOG_LEVEL): %q is none of debug, info, warn, error", p.LogLevel)
		}
	}
	opts := &slog.HandlerOptions{Level: level}
	switch p.LogFormat {
	case "", "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, opts)), nil
	case "text":
		return slog.New(slog.NewTextHandler(os.Stderr, opts)), nil
	default:
		return nil, fmt.Errorf("log_format (BERTH_LOG_FORMAT): %q is neither text nor json", p.LogFormat)
	}
}

// UntilSignal returns a context that ends with SIGINT, SIGTERM or SIGHUP, the last being what a terminal that is closed sends; a second signal ends the
// process at once. Whoever ignores SIGHUP, as nohup does, is not stopped by it.
func UntilSignal(ctx context.Context) (context.Context, context.CancelFunc) {
	signals := []os.Signal{os.Interrupt, syscall.SIGTERM}
	if !signal.Ignored(syscall.SIGHUP) {
		signals = append(signals, syscall.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(ctx, signals...)
	context.AfterFunc(ctx, stop)
	return ctx, stop
}

// LogDrivers sends to log what the Redis driver and OpenTelemetry would otherwise write to standard error in forms of their own. It is for the start of a
// process: there is one such logger for all.
func LogDrivers(log *slog.Logger) {
	redis.SetLogger(driverLog{log})
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("spans were not sent", "error", err) }))
}

type driverLog struct{ log *slog.Logger }

// Printf implements the driver's logger. What it has to say of a store that is away concerns nobody's call in particular.
func (d driverLog) Printf(ctx context.Context, format string, args ...any) {
	d.log.WarnContext(ctx, "redis driver", "detail", strings.TrimSpace(fmt.Sprintf(format, args...)))
}

// Settings is a service's configuration.
type Settings interface {
	// Validate returns an error that names each setting that cannot be used.
	Validate() error
}

// Main is the main function of a service's binary: it reads flags, file and environment into cfg, which holds the defaults, mounts the module and
// runs it until it is told to stop by a signal. process points to the Process within cfg.
func Main[C Settings](name, short string, cfg *C, process *Process, module func(C) Module) {
	var file string
	var printOnly bool
	cmd := &cobra.Command{
		Use: name, Short: short, Args: cobra.NoArgs, SilenceUsage: true, SilenceErrors: true,
		Long: short + ".\n\nEvery setting can stand in the file given with --config (YAML) or in the environment; --print-config shows them all.",
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := conf.Load(file, cfg); err != nil {
				return err
			}
			log, err := process.Logger()
			err = errors.Join(err, process.Tracing.Validate(), (*cfg).Validate())
			if printOnly { // what is wrong with the settings is easier to see beside them
				return errors.Join(yaml.NewEncoder(cmd.OutOrStdout()).Encode(cfg), err)
			}
			if err != nil {
				return err
			}
			LogDrivers(log)
			a, err := start(cmd.Context(), log, *process, module(*cfg))
			if err != nil {
				return err
			}
			return a.Run(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&file, "config", os.Getenv("BERTH_CONFIG"), "configuration file (BERTH_CONFIG)")
	cmd.Flags().BoolVar(&printOnly, "print-config", false, "print the settings in force, without secrets, and what is wrong with them, and exit")

	ctx, stop := UntilSignal(context.Background())
	err := cmd.ExecuteContext(ctx)
	stop()
	if err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
		os.Exit(1)
	}
}

// start builds a service's program.
func start(ctx context.Context, log *slog.Logger, p Process, m Module) (*App, error) {
	tracer, err := tracing.Open(ctx, p.Tracing, "berth-"+m.Name)
	if err != nil {
		return nil, err
	}
	return New(ctx, Config{Log: log, AdminAddr: p.AdminAddr, Tracer: tracer}, m)
}
