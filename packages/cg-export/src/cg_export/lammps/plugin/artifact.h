// The manifest of an artifact folder, read and verified on the host.

#ifndef CG_ARTIFACT_H
#define CG_ARTIFACT_H

#include "runtime.h"

#include <string>
#include <vector>

namespace cg {

// A static-shape StableHLO module of the ladder.
struct Module {
  std::string file;
  std::vector<std::string> platforms;
  Budget budget;
};

struct Artifact {
  double cutoff = 0.0;             // angstrom, of the neighbour edges
  double receptive_field = 0.0;    // angstrom, how far a bead's energy sees
  bool needs_topology = false;     // whether bonds, angles and dihedrals enter the energy
  std::vector<std::string> species;
  std::vector<Module> modules;
};

// Read DIR/manifest.json and verify the checksum of every file it lists. Throws std::runtime_error with one line.
Artifact read_artifact(const std::string &folder);

}    // namespace cg

#endif
