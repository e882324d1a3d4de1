// What evaluates an artifact: one small interface, and the host buffers that it reads and fills.

#ifndef CG_RUNTIME_H
#define CG_RUNTIME_H

#include <cstdint>
#include <memory>
#include <string>

namespace cg {

// Static sizes of one compiled evaluation; tuples beyond the counts of a step are ignored by the function.
struct Budget {
  int32_t beads = 0, edges = 0, bonds = 0, angles = 0, dihedrals = 0;

  bool holds(const Budget &need) const
  {
    return need.beads <= beads && need.edges <= edges && need.bonds <= bonds && need.angles <= angles &&
        need.dihedrals <= dihedrals;
  }
};

// What every step changes.
struct StepBuffers {
  int32_t *counts = nullptr;       // [6] local beads, beads, edges, bonds, angles, dihedrals
  double *positions = nullptr;     // [beads, 3] angstrom
  int32_t *senders = nullptr;      // [edges]
  int32_t *receivers = nullptr;    // [edges]
};

constexpr int N_SETS = 2;

// Host memory of one budget, of the types of the exported function's arguments and results, allocated once for each compile().
// Steps fill the two sets in turn, so a runtime may still be reading the last step's while the next is filled. The Python
// runtime reads this struct through ctypes: keep cg_export/lammps/runtime.py in step.
struct Buffers {
  StepBuffers step[N_SETS];
  int32_t *species = nullptr;      // [beads]
  int32_t *residue = nullptr;      // [beads] position along the segment
  int32_t *segment = nullptr;      // [beads] unbroken chain segment
  int32_t *bonds = nullptr;        // [bonds, 2]
  int32_t *angles = nullptr;       // [angles, 3]
  int32_t *dihedrals = nullptr;    // [dihedrals, 4]
  double *energies = nullptr;      // [beads] kcal/mol, zero for ghosts
  double *forces = nullptr;        // [beads, 3] kcal/mol/angstrom
};

constexpr int N_COUNTS = 6;

class Runtime {
 public:
  virtual ~Runtime() = default;

  // The budget to compile for a need: at least the need, and never below an earlier budget. `isolated`: no ghosts, so the
  // numbers of beads and tuples cannot change.
  virtual Budget plan(const Budget &need, bool isolated) = 0;
  // Compile for a budget that plan() returned and take note of its buffers, which must outlive the next compile().
  virtual void compile(const Budget &budget, const Buffers &buffers) = 0;
  // Return once `set` may be filled: nothing reads what an earlier step left there any more.
  virtual void acquire(int set) = 0;
  // The positions of `set` are filled: a runtime with a device of its own starts their transfer while the edges are found.
  virtual void send_positions(int set) = 0;
  // Evaluate `set`. `lists_changed` says that species, residues, segments or tuples may differ from last time.
  virtual void execute(int set, bool lists_changed) = 0;
};

struct Artifact;

// Each throws std::runtime_error with one line that says what was expected. `folder` is the artifact's; pjrt_runtime keeps the
// reference to its manifest, and opens `library`.
std::unique_ptr<Runtime> python_runtime(const std::string &folder);
std::unique_ptr<Runtime> pjrt_runtime(const std::string &folder, const Artifact &artifact, const std::string &library);

}    // namespace cg

#endif
