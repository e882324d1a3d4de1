#include "pair_cg.h"

#include "atom.h"
#include "comm.h"
#include "error.h"
#include "force.h"
#include "memory.h"
#include "neigh_list.h"
#include "neighbor.h"
#include "platform.h"
#include "update.h"
#include "utils.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <stdexcept>

using namespace LAMMPS_NS;

namespace {

constexpr size_t ALIGNMENT = 64;    // lets XLA read and write the buffers in place

// How many of an atom's tuples of each size there are: each atom holds all of its own, because newton_bond is off.
bigint count_held(const int *n_held, const std::vector<int> &species_of_type, const Atom *atom, MPI_Comm world)
{
  bigint n = 0;
  for (int i = 0; i < atom->nlocal; i++)
    if (species_of_type[atom->type[i]] >= 0) n += n_held[i];
  MPI_Allreduce(MPI_IN_PLACE, &n, 1, MPI_LMP_BIGINT, MPI_SUM, world);
  return n;
}

}    // namespace

PairCG::PairCG(LAMMPS *lmp) : Pair(lmp)
{
  single_enable = 0;
  restartinfo = 0;    // a restart file cannot hold an artifact: pair_style and pair_coeff are given again
  one_coeff = 1;
  manybody_flag = 1;
  centroidstressflag = CENTROID_NOTAVAIL;
}

PairCG::~PairCG()
{
  if (allocated) {
    memory->destroy(setflag);
    memory->destroy(cutsq);
    memory->destroy(cutghost);
  }
}

void PairCG::allocate()
{
  allocated = 1;
  const int n = atom->ntypes + 1;
  memory->create(setflag, n, n, "pair:setflag");
  memory->create(cutsq, n, n, "pair:cutsq");
  memory->create(cutghost, n, n, "pair:cutghost");
  for (int i = 0; i < n; i++)
    for (int j = 0; j < n; j++) {
      setflag[i][j] = 0;
      cutsq[i][j] = cutghost[i][j] = 0.0;
    }
}

void PairCG::settings(int narg, char **arg)
{
  runtime_name = narg > 0 ? arg[0] : "python";
  int next = std::min(narg, 1);
  pjrt_library.clear();
  if (runtime_name == "pjrt") {
    if (narg < 2 || strcmp(arg[1], "reserve") == 0)
      error->all(FLERR, "pair_style cg pjrt: expected the path of a PJRT library, such as xla_cuda_plugin.so of jax-cuda12-pjrt");
    pjrt_library = arg[next++];
  } else if (runtime_name != "python")
    error->all(FLERR, "pair_style cg: unknown runtime '{}'; expected 'pair_style cg python' or 'pair_style cg pjrt LIBRARY'", runtime_name);
  reserved = cg::Budget();
  if (next == narg) return;
  if (narg != next + 3 || strcmp(arg[next], "reserve") != 0)
    error->all(FLERR, "pair_style cg {}: expected nothing more or 'reserve BEADS EDGES', received '{}'", runtime_name, arg[next]);
  const int beads = utils::inumeric(FLERR, arg[next + 1], false, lmp);
  reserved = {beads, utils::inumeric(FLERR, arg[next + 2], false, lmp), beads, beads, beads};
}

void PairCG::coeff(int narg, char **arg)
{
  if (!allocated) allocate();
  const int n_types = atom->ntypes;
  if (narg != 3 + n_types || strcmp(arg[0], "*") != 0 || strcmp(arg[1], "*") != 0)
    error->all(FLERR, "pair_coeff of pair style cg: expected '* * ARTIFACT' and {} residue names, one for each atom type, received {} arguments",
               n_types, narg);
  folder = arg[2];
  try {
    artifact = cg::read_artifact(folder);
  } catch (const std::runtime_error &failure) {
    error->all(FLERR, "pair style cg: {}", failure.what());
  }

  species_of_type.assign(n_types + 1, -1);
  for (int type = 1; type <= n_types; type++) {
    const std::string name = arg[2 + type];
    if (name == "NULL") continue;
    const auto found = std::find(artifact.species.begin(), artifact.species.end(), name);
    if (found == artifact.species.end()) {
      std::string known;
      for (const auto &species : artifact.species) known += " " + species;
      error->all(FLERR, "pair_coeff of pair style cg: atom type {} names species '{}', which the artifact lacks; it knows:{}", type, name,
                 known);
    }
    species_of_type[type] = static_cast<int>(found - artifact.species.begin());
  }
  for (int i = 1; i <= n_types; i++)
    for (int j = i; j <= n_types; j++) setflag[i][j] = species_of_type[i] >= 0 && species_of_type[j] >= 0;
  runtime.reset();
  budget = cg::Budget();
}

void PairCG::init_style()
{
  check_surroundings();
  if (artifact.needs_topology) check_topology();
  ghost_receivers = artifact.receptive_field > artifact.cutoff;
  ghostneigh = ghost_receivers;
  neighbor->add_request(this, ghost_receivers ? NeighConst::REQ_FULL | NeighConst::REQ_GHOST : NeighConst::REQ_FULL);
  stale = true;
  ghosts_checked = false;
  n_evaluations = n_list_fills = n_allocations = 0;
  time_runtime = time_bridge = 0.0;
  if (runtime) return;
  try {
    runtime = runtime_name == "pjrt" ? cg::pjrt_runtime(folder, artifact, pjrt_library) : cg::python_runtime(folder);
    if (reserved.beads > 0) runtime->plan(reserved, true);
  } catch (const std::runtime_error &failure) {
    error->one(FLERR, "pair style cg: {}", failure.what());
  }
}

double PairCG::init_one(int i, int j)
{
  cutghost[i][j] = cutghost[j][i] = artifact.cutoff;
  return artifact.cutoff;
}

void PairCG::check_surroundings()
{
  if (strcmp(update->unit_style, "real") != 0)
    error->all(FLERR, "pair style cg: expected 'units real' (angstrom, kcal/mol), received 'units {}'", update->unit_style);
  if (!force->newton_pair || force->newton_bond)
    error->all(FLERR, "pair style cg: expected 'newton on off' (pair on, bond off) before the box is made, received 'newton {} {}'",
               force->newton_pair ? "on" : "off", force->newton_bond ? "on" : "off");
  if (!atom->tag_enable) error->all(FLERR, "pair style cg: expected atoms with IDs: remove 'atom_modify id no'");
  if (atom->molecular == Atom::ATOMIC) return;
  for (int k = 1; k <= 3; k++)
    if (force->special_lj[k] == 0.0 && force->special_coul[k] == 0.0)
      error->all(FLERR, "pair style cg: special_bonds takes bonded neighbours out of the neighbour list; expected 'special_bonds lj/coul 1 1 1', or "
                        "'special_bonds lj 0 0 0 coul 1 1 1' where another pair style must leave them out");
}

// The energy needs every bond, angle and dihedral of every chain; a data file without them would run, and be wrong.
void PairCG::check_topology()
{
  const char *needed = "pair style cg: the artifact's prior needs bonds, angles and dihedrals; expected 'atom_style molecular', a data file "
                       "with all three, and 'bond_style zero', 'angle_style zero', 'dihedral_style zero'";
  if (atom->molecular != Atom::MOLECULAR || !atom->molecule_flag) error->all(FLERR, needed);
  tagint last = 0;
  for (int i = 0; i < atom->nlocal; i++) {
    if (atom->molecule[i] < 0)
      error->one(FLERR, "pair style cg: expected molecule IDs from 0, received {} of atom {}: number the segments from 1, as cg-export lammps does",
                 atom->molecule[i], atom->tag[i]);
    last = std::max(last, atom->molecule[i]);
  }
  MPI_Allreduce(MPI_IN_PLACE, &last, 1, MPI_LMP_TAGINT, MPI_MAX, world);
  std::vector<int> size(last + 1, 0);
  for (int i = 0; i < atom->nlocal; i++)
    if (species_of_type[atom->type[i]] >= 0) size[atom->molecule[i]]++;
  MPI_Allreduce(MPI_IN_PLACE, size.data(), static_cast<int>(size.size()), MPI_INT, MPI_SUM, world);
  bigint n_beads = 0, expected[3] = {0, 0, 0};
  for (const int n : size) {
    n_beads += n;
    for (int k = 0; k < 3; k++) expected[k] += std::max(n - 1 - k, 0);
  }
  // Chains too short for a kind need no style for it, and LAMMPS refuses a style without types.
  if ((expected[0] && !force->bond) || (expected[1] && !force->angle) || (expected[2] && !force->dihedral)) error->all(FLERR, needed);
  // Of the model's own beads: those of other molecules do not make up for what a chain lacks.
  const int *held[3] = {atom->num_bond, atom->num_angle, atom->num_dihedral};
  bigint found[3];
  for (int k = 0; k < 3; k++) found[k] = count_held(held[k], species_of_type, atom, world) / (k + 2);
  const char *names[3] = {"bonds", "angles", "dihedrals"};
  for (int k = 0; k < 3; k++)
    if (found[k] < expected[k])
      error->all(FLERR, "pair style cg: expected {} {} for the {} beads of these molecules, received {}: one molecule must be one unbroken "
                        "segment with all its tuples; write the data file with cg-export lammps",
                 expected[k], names[k], n_beads, found[k]);
}

// Known only once LAMMPS has set up its communication, so not in init_style().
void PairCG::check_ghosts()
{
  ghosts_checked = true;
  const double needed = artifact.receptive_field + neighbor->skin;
  const double available = comm->get_comm_cutoff();
  if (available < needed * (1.0 - 1e-12))
    error->all(FLERR, "pair style cg: a bead's energy sees {} A; expected ghost atoms out to {} A with the skin of {} A, received {} A: add "
                      "'comm_modify cutoff {}'",
               artifact.receptive_field, needed, neighbor->skin, available, needed);
}

// Residue indices are the atom IDs, so neighbours along a chain must have neighbouring IDs.
void PairCG::check_bonds()
{
  for (int b = 0; b < neighbor->nbondlist; b++) {
    const int i = neighbor->bondlist[b][0], j = neighbor->bondlist[b][1];
    if (species_of_type[atom->type[i]] < 0 || species_of_type[atom->type[j]] < 0) continue;
    const tagint apart = std::abs(atom->tag[i] - atom->tag[j]);
    if (apart != 1 || atom->molecule[i] != atom->molecule[j])
      error->one(FLERR, "pair style cg: expected bonds between neighbouring atom IDs of one molecule, received a bond of atom {} (molecule {}) and "
                        "atom {} (molecule {}): number atoms along the chain, as cg-export lammps does",
                 atom->tag[i], atom->molecule[i], atom->tag[j], atom->molecule[j]);
  }
}

void PairCG::compute(int eflag, int vflag)
{
  const double start = platform::walltime();
  const double time_before = time_runtime + time_compile;
  ev_init(eflag, vflag);
  if (vflag_atom || cvflag_atom)
    error->all(FLERR, "pair style cg: per-atom stress is not defined for a many-body network here; use 'compute pressure' or 'compute pe/atom'");
  if (!ghosts_checked) check_ghosts();

  const bool rebuilt = neighbor->ago == 0 || stale;
  if (rebuilt && artifact.needs_topology) check_bonds();
  set = (set + 1) % cg::N_SETS;
  const int n_all = atom->nlocal + atom->nghost;
  // A rank without atoms has nothing compiled on its first step, and no buffers to send.
  if (budget.beads > 0 && n_all <= budget.beads) fill_positions();
  const bool recompiled = fit_budget();
  if (recompiled) fill_positions();
  if (rebuilt || recompiled) fill_lists();
  stale = false;
  std::copy_n(counts, cg::N_COUNTS, buffers.step[set].counts);
  run([&] { runtime->execute(set, rebuilt || recompiled); });
  n_evaluations++;
  add_results(n_all);
  if (vflag_fdotr)
    virial_fdotr_compute();
  else if (vflag_global)
    add_virial(n_all);
  time_bridge += platform::walltime() - start - (time_runtime + time_compile - time_before);
}

void PairCG::fill_positions()
{
  run([this] { runtime->acquire(set); });
  const int n_all = atom->nlocal + atom->nghost;
  if (n_all) memcpy(buffers.step[set].positions, atom->x[0], sizeof(double) * 3 * n_all);
  run([this] { runtime->send_positions(set); });
}

// Fill the edges, and compile for a larger budget first where anything of this step is over the present one.
bool PairCG::fit_budget()
{
  cg::Budget need;
  need.beads = atom->nlocal + atom->nghost;
  if (artifact.needs_topology) {
    need.bonds = neighbor->nbondlist;
    need.angles = neighbor->nanglelist;
    need.dihedrals = neighbor->ndihedrallist;
  }
  need.edges = fill_edges();
  const bool fits = budget.beads > 0 && budget.holds(need);
  if (!fits) {
    compile(need);
    fill_edges();
  }
  counts[2] = need.edges;
  return !fits;
}

// Write the edges closer than the cutoff, and return how many there are, which may be more than the budget holds. LAMMPS's
// list reaches a skin further: each edge costs the network far more than a distance costs here.
int PairCG::fill_edges()
{
  double **x = atom->x;
  const int *type = atom->type;
  const double cutoff_squared = artifact.cutoff * artifact.cutoff;
  const int n_receivers = list->inum + (ghost_receivers ? list->gnum : 0);
  const cg::StepBuffers &step = buffers.step[set];
  int n = 0;
  for (int ii = 0; ii < n_receivers; ii++) {
    const int i = list->ilist[ii];
    if (species_of_type[type[i]] < 0) continue;
    const double xi = x[i][0], yi = x[i][1], zi = x[i][2];
    const int *neighbours = list->firstneigh[i];
    for (int jj = 0; jj < list->numneigh[i]; jj++) {
      const int j = neighbours[jj] & NEIGHMASK;
      const double dx = xi - x[j][0], dy = yi - x[j][1], dz = zi - x[j][2];
      if (dx * dx + dy * dy + dz * dz >= cutoff_squared || species_of_type[type[j]] < 0) continue;
      if (n < budget.edges) {
        step.senders[n] = j;
        step.receivers[n] = i;
      }
      n++;
    }
  }
  return n;
}

void PairCG::compile(const cg::Budget &need)
{
  const double start = platform::walltime();
  try {
    budget = runtime->plan(need, comm->nprocs == 1 && atom->nghost == 0);
    owned.clear();
    buffer_bytes = 0.0;
    auto reserve = [this](size_t bytes) {
      bytes = (std::max<size_t>(bytes, 1) + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
      void *memory = std::aligned_alloc(ALIGNMENT, bytes);
      if (!memory) throw std::runtime_error("out of memory for " + std::to_string(bytes) + " bytes");
      memset(memory, 0, bytes);    // padding beyond the counts must stay valid indices
      owned.emplace_back(memory, std::free);
      n_allocations++;
      buffer_bytes += static_cast<double>(bytes);
      return memory;
    };
    auto integers = [&reserve](size_t n) { return static_cast<int32_t *>(reserve(sizeof(int32_t) * n)); };
    auto reals = [&reserve](size_t n) { return static_cast<double *>(reserve(sizeof(double) * n)); };
    const size_t n = budget.beads, e = budget.edges;
    for (auto &step : buffers.step) {
      step.counts = integers(cg::N_COUNTS);
      step.positions = reals(3 * n);
      step.senders = integers(e);
      step.receivers = integers(e);
    }
    buffers.species = integers(n);
    buffers.residue = integers(n);
    buffers.segment = integers(n);
    buffers.bonds = integers(2 * size_t(budget.bonds));
    buffers.angles = integers(3 * size_t(budget.angles));
    buffers.dihedrals = integers(4 * size_t(budget.dihedrals));
    buffers.energies = reals(n);
    buffers.forces = reals(3 * n);
    runtime->compile(budget, buffers);
  } catch (const std::runtime_error &failure) {
    error->one(FLERR, "pair style cg: {}", failure.what());
  }
  const double seconds = platform::walltime() - start;
  time_compile += seconds;
  if (!announced || comm->me == 0)
    utils::logmesg(lmp, "pair style cg, rank {}: {} beads, {} edges; compiled for {} beads, {} edges in {:.2f} s\n", comm->me, need.beads,
                   need.edges, budget.beads, budget.edges, seconds);
  announced = true;
}

// Everything that changes only when LAMMPS rebuilds its lists and sorts or migrates atoms.
void PairCG::fill_lists()
{
  const int n_all = atom->nlocal + atom->nghost;
  if (atom->natoms > std::numeric_limits<int32_t>::max())
    error->all(FLERR, "pair style cg: expected fewer than 2^31 atoms, received {}", atom->natoms);
  for (int i = 0; i < n_all; i++) {
    buffers.species[i] = std::max(species_of_type[atom->type[i]], 0);
    buffers.residue[i] = static_cast<int32_t>(atom->tag[i]);
    buffers.segment[i] = atom->molecule_flag ? static_cast<int32_t>(atom->molecule[i]) : 0;
  }
  n_list_fills++;
  counts[0] = atom->nlocal;
  counts[1] = n_all;
  if (!artifact.needs_topology) return;
  counts[3] = copy_tuples(buffers.bonds, neighbor->bondlist, neighbor->nbondlist, 2);
  counts[4] = copy_tuples(buffers.angles, neighbor->anglelist, neighbor->nanglelist, 3);
  counts[5] = copy_tuples(buffers.dihedrals, neighbor->dihedrallist, neighbor->ndihedrallist, 4);
}

// Write the tuples whose atoms are all beads of the model, and return how many: those of NULL types are of other styles.
int PairCG::copy_tuples(int32_t *target, int **source, int n, int width)
{
  int kept = 0;
  for (int i = 0; i < n; i++) {
    const int *tuple = source[i];
    if (std::any_of(tuple, tuple + width, [this](int j) { return species_of_type[atom->type[j]] < 0; })) continue;
    std::copy_n(tuple, width, target + static_cast<size_t>(width) * kept);
    kept++;
  }
  return kept;
}

void PairCG::run(const std::function<void()> &call)
{
  const double start = platform::walltime();
  try {
    call();
  } catch (const std::runtime_error &failure) {
    error->one(FLERR, "pair style cg: step {}: {}", update->ntimestep, failure.what());
  }
  time_runtime += platform::walltime() - start;
}

void PairCG::add_results(int n_all)
{
  double energy = 0.0, sum_of_forces = 0.0;
  for (int i = 0; i < atom->nlocal; i++)
    if (species_of_type[atom->type[i]] >= 0) energy += buffers.energies[i];
  for (int k = 0; k < 3 * n_all; k++) sum_of_forces += buffers.forces[k];
  if (!std::isfinite(energy) || !std::isfinite(sum_of_forces)) report_bad_bead();

  for (int i = 0; i < n_all; i++)
    for (int k = 0; k < 3; k++) atom->f[i][k] += buffers.forces[3 * i + k];
  if (eflag_global) eng_vdwl += energy;
  if (eflag_atom)
    for (int i = 0; i < atom->nlocal; i++)
      if (species_of_type[atom->type[i]] >= 0) eatom[i] += buffers.energies[i];
}

// LAMMPS asks each style for its own sum under run_style respa, and beside a hybrid's styles that have no other.
void PairCG::add_virial(int n_all)
{
  for (int i = 0; i < n_all; i++) {
    const double *x = atom->x[i], *f = buffers.forces + 3 * i;
    virial[0] += x[0] * f[0];
    virial[1] += x[1] * f[1];
    virial[2] += x[2] * f[2];
    virial[3] += x[1] * f[0];
    virial[4] += x[2] * f[0];
    virial[5] += x[2] * f[1];
  }
}

void PairCG::report_bad_bead()
{
  const int n_all = atom->nlocal + atom->nghost;
  for (int i = 0; i < n_all; i++) {
    const double *f = buffers.forces + 3 * i;
    if (std::isfinite(buffers.energies[i]) && std::isfinite(f[0]) && std::isfinite(f[1]) && std::isfinite(f[2])) continue;
    error->one(FLERR, "pair style cg: energy {} and force ({}, {}, {}) of bead {} at step {} are not finite; position ({:.3f}, {:.3f}, {:.3f}): "
                      "the chain left what the model knows; use a smaller timestep or start from a relaxed structure",
               buffers.energies[i], f[0], f[1], f[2], atom->tag[i], update->ntimestep, atom->x[i][0], atom->x[i][1], atom->x[i][2]);
  }
  error->one(FLERR, "pair style cg: the energy at step {} is not finite although each bead's is", update->ntimestep);
}

void PairCG::finish()
{
  if (comm->me == 0 && n_evaluations)
    utils::logmesg(lmp, "pair style cg: {} evaluations, {:.3f} ms each in the runtime, {:.3f} ms each in the bridge; lists filled {} times, "
                        "{} buffers allocated\n",
                   n_evaluations, 1e3 * time_runtime / n_evaluations, 1e3 * time_bridge / n_evaluations, n_list_fills, n_allocations);
}

double PairCG::memory_usage()
{
  return Pair::memory_usage() + buffer_bytes;
}
