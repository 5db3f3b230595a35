"""The exporters that come with eqnet; eqnet finds them through entry points only."""
