// The manifest of an artifact folder, read and verified on the host.

#ifndef CG_ARTIFACT_H
#define CG_ARTIFACT_H

#include <string>
#include <vector>

namespace cg {

struct Artifact {
  double cutoff = 0.0;             // angstrom, of the neighbour edges
  double receptive_field = 0.0;    // angstrom, how far a bead's energy sees
  bool needs_topology = false;     // whether bonds, angles and dihedrals enter the energy
  std::vector<std::string> species;
};

// Read DIR/manifest.json and verify the checksum of every file it lists. Throws std::runtime_error with one line.
Artifact read_artifact(const std::string &folder);

}    // namespace cg

#endif
