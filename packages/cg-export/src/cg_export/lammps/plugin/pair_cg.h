// Pair style `cg`: energies and forces of an artifact exported by cg-export.
//
//   pair_style cg python [reserve BEADS EDGES]
//   pair_style cg pjrt LIBRARY [reserve BEADS EDGES]
//   pair_coeff * * artifact-folder ALA ARG ... (one residue name of the artifact, or NULL, for each atom type)

#ifndef LMP_PAIR_CG_H
#define LMP_PAIR_CG_H

#include "artifact.h"
#include "pair.h"
#include "runtime.h"

#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace LAMMPS_NS {

class PairCG : public Pair {
 public:
  PairCG(class LAMMPS *);
  ~PairCG() override;
  void compute(int, int) override;
  void settings(int, char **) override;
  void coeff(int, char **) override;
  void init_style() override;
  double init_one(int, int) override;
  void finish() override;
  double memory_usage() override;

 private:
  void allocate();
  void check_surroundings();
  void check_topology();
  void check_ghosts();
  void check_bonds();
  void fill_positions();
  bool fit_budget();
  void compile(const cg::Budget &);
  int fill_edges();
  void fill_lists();
  int copy_tuples(int32_t *, int **, int, int);
  void run(const std::function<void()> &);
  void add_results(int);
  void add_virial(int);
  void report_bad_bead();

  std::string runtime_name, pjrt_library, folder;
  cg::Artifact artifact;
  std::unique_ptr<cg::Runtime> runtime;
  std::vector<int> species_of_type;    // index into artifact.species, -1 for NULL
  bool ghost_receivers = false;        // whether ghosts need their own neighbours: receptive field beyond the cutoff

  cg::Budget reserved;    // least sizes to compile for
  cg::Budget budget;
  cg::Buffers buffers;
  int set = 0;                   // of buffers.step, which this step fills
  int32_t counts[cg::N_COUNTS] = {};
  std::vector<std::unique_ptr<void, void (*)(void *)>> owned;
  double buffer_bytes = 0.0;
  bool stale = true;    // lists must be filled again although LAMMPS has not rebuilt them
  bool announced = false;
  bool ghosts_checked = false;

  long n_evaluations = 0, n_list_fills = 0, n_allocations = 0;
  double time_runtime = 0.0, time_bridge = 0.0, time_compile = 0.0;    // seconds
};

}    // namespace LAMMPS_NS

#endif
