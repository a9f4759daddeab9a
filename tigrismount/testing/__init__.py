"""Contract suites, fakes and fixtures that tests of any layer share; shipped with the package."""
