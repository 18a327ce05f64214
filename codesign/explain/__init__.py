"""Why a run took as long as it did: attribution of time, elasticities, advice."""
